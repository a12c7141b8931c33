"""The command of llama.cpp that comes nearest to a policy, and what it does otherwise than was simulated (b11434; docs/exchange.md, llama.cpp)."""

from __future__ import annotations

from simulator.study.deploy.engines import AS_MEASURED, Command, shared
from simulator.study.deploy.question import ServingQuestion
from simulator.study.run.launch import EngineLaunch

TYPES = {
    "dspark": "draft-dspark", "dflash": "draft-dflash", "eagle3": "draft-eagle3", "mtp": "draft-mtp", "draft": "draft-simple",
    "ngram": "ngram-simple", "suffix": "ngram-simple",
}  # fmt: skip
LONGEST = 4096  # tokens of a slot, where nothing bounds a request


def llama_cpp(question: ServingQuestion) -> EngineLaunch:
    """llama-server with one cache for all slots: of a split one a step may take several passes."""
    command = Command(["llama-server", "--model"])
    engine, slots = question.scenario.engine, question.max_batch
    command.words.append(command.model(question.profile.target, "target model, as GGUF"))
    longest = question.longest_request
    if longest is None:
        command.fill_in.append(f"--ctx-size: {slots} slots × the longest request; {LONGEST:,} tokens are assumed")
    command.words += ["--parallel", str(slots), "--kv-unified", "--ctx-size", str(engine.kv_tokens or slots * (longest or LONGEST))]
    if question.prompt_tokens is not None:
        command.words += ["--batch-size", str(question.prompt_tokens)]
        if not engine.prefill.decodes(1):
            command.otherwise.append("prompts in steps of their own: llama.cpp processes prompts and decodes in one step")
    if question.fixed_length:
        _speculation(command, question)
    for key in ("page_tokens", "graph_sizes"):
        if getattr(engine, key) is not None:
            command.otherwise.append(f"engine.{key}: llama.cpp has no such setting")
    if question.by_batch:
        command.otherwise.append(
            f"lengths by batch size: llama.cpp has one length, and {question.fixed_length} is the best single one by the profile"
        )
    shared(command, question, "llama.cpp")
    return command.finished("llama.cpp")


def _speculation(command: Command, question: ServingQuestion) -> None:
    """llama.cpp's --spec-… options."""
    name = TYPES.get(question.family, "TYPE")
    command.words += ["--spec-type", name]
    if name == "TYPE":
        command.fill_in.append("TYPE: the drafter's, which the profile does not know, for example draft-simple")
    if question.of_its_own:
        command.words += ["--spec-draft-model", command.model("", "drafter")]
    if question.looks_up:
        command.words += ["--spec-ngram-simple-size-m", str(question.fixed_length)]
        command.fill_in.append(f"--spec-ngram-simple-size-n: {AS_MEASURED}; llama.cpp looks for 12 tokens where it is not given")
        if question.family == "suffix":
            command.otherwise.append("suffix decoding: llama.cpp has none, and ngram-simple comes nearest")
    else:
        command.words += ["--spec-draft-n-max", str(question.fixed_length)]
    if question.serving.lag is not None:
        command.otherwise.append("lengths by confidence: llama.cpp drafts whole blocks, or up to a confidence (--spec-draft-p-min)")
