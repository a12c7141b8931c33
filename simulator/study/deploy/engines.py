"""The commands of vLLM and SGLang that come nearest to a policy, files for them, and what they do otherwise than was simulated.

Options as in vllm-project/vllm at 002e77c (config/speculative.py), 14b450c (v1/spec_decode/dynamic/utils.py) and 057929c (adaptive_verification.py),
and sgl-project/sglang at 015c872 (srt/arg_groups/fields/spec.py), 001b886 (fields/schedule.py). Two engines beside each other: one file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from simulator.measurements.formats.sglang import additive_sps_json, sts_json
from simulator.measurements.formats.vllm import lengths_by_batch_json
from simulator.measurements.prices import RoundCost
from simulator.study.deploy.question import ServingQuestion
from simulator.study.profiles.exporting import additive_table, batch_sizes
from simulator.study.run.launch import EngineLaunch

VLLM_METHOD = {name: name for name in ("dspark", "dflash", "eagle3", "eagle", "mtp", "ngram", "suffix")} | {"draft": "draft_model"}
SGLANG_ALGORITHM = {
    "dspark": "DSPARK", "dflash": "DFLASH", "eagle3": "EAGLE3", "eagle": "EAGLE", "mtp": "NEXTN", "draft": "STANDALONE", "ngram": "NGRAM",
    "suffix": "NGRAM",
}  # fmt: skip
AS_MEASURED = "as on the server that was measured"
BUNDLED = "leave the drafter out where the target's checkpoint holds it, as DeepSeek-V4's DSpark releases do"
VLLM_LAG, SGLANG_LAG = 1, 2  # steps from the confidences to the budget made of them


@dataclass
class Command:
    """An engine's command in the making."""

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    fill_in: list[str] = field(default_factory=list)
    otherwise: list[str] = field(default_factory=list)

    def model(self, name: str, what: str) -> str:
        """What to write for a model; a placeholder where the profile has no name that an engine can load, or one that it would take for an option."""
        if re.fullmatch(r"[\w./~][\w./~ +:@=-]*", name) and "/" in name:
            return name
        known = name not in ("", "not stated")
        shown = "PATH/TO/" + (re.sub(r"[^\w.+-]+", "-", name).strip("-") if known else what.upper())
        self.fill_in.append(f"{shown}: folder or hub name of the {what}" + ("" if known else ", which the profile does not name"))
        return shown

    def finished(self, engine: str) -> EngineLaunch:
        return EngineLaunch(
            engine=engine, environment=self.environment, command=tuple(self.words), files=self.files, fill_in=tuple(self.fill_in),
            otherwise=tuple(self.otherwise),
        )  # fmt: skip


def vllm(question: ServingQuestion) -> EngineLaunch:
    command = Command(["vllm", "serve"])
    engine, serving = question.scenario.engine, question.serving
    command.words.append(command.model(question.profile.target, "target model"))
    _parallel(command, question, "--tensor-parallel-size")
    command.words += ["--max-num-seqs", str(engine.max_batch)]
    _longest(command, question, "--max-model-len")
    if question.prompt_tokens is not None:
        command.words += ["--max-num-batched-tokens", str(question.prompt_tokens)]
        if not engine.prefill.decodes(1):
            command.otherwise.append("prompts in steps of their own: vLLM processes prompts and decodes in one step")
        if question.prompt_tokens < engine.max_batch:
            command.otherwise.append(f"{question.prompt_tokens} tokens in a step: vLLM wants at least --max-num-seqs ({engine.max_batch})")
    if engine.page_tokens is not None:
        command.words += ["--block-size", str(engine.page_tokens)]
    if engine.graph_sizes is not None:
        command.words += ["--compilation-config", json.dumps({"cudagraph_capture_sizes": engine.graph_sizes})]
    if serving.length:
        command.words += ["--speculative-config", json.dumps(_speculative_config(command, question))]
        _draft_block(command, question)
    if question.scheduled:
        if serving.profile_context is not None:
            command.environment["VLLM_ADAPTIVE_VERIFICATION_PROFILE_CONTEXT_LEN"] = str(serving.profile_context)
        _lag(command, question, "vLLM", VLLM_LAG)
        command.otherwise.append("step costs of the profile: vLLM profiles its own when it starts")
        if question.drafter and question.drafter.temperatures:
            command.otherwise.append("calibrated confidences: vLLM takes the head's own")
    elif question.by_batch:
        command.files["vllm-lengths.json"] = lengths_by_batch_json(question.lengths)
        command.otherwise.append(
            "lengths by batch size in every version: some ignore the table for DSpark and DFlash, and some run it without full CUDA graphs"
        )
    shared(command, question, "vLLM")
    return command.finished("vLLM")


def _speculative_config(command: Command, question: ServingQuestion) -> dict[str, object]:
    """vLLM's --speculative-config."""
    config: dict[str, object] = {}
    if question.family in VLLM_METHOD:
        config["method"] = VLLM_METHOD[question.family]
    if question.of_its_own:
        config["model"] = command.model("", "drafter")
    if question.family == "dspark":
        command.fill_in.append(BUNDLED)
    elif question.family == "ngram":
        command.fill_in.append(f"prompt_lookup_max and prompt_lookup_min: {AS_MEASURED}; vLLM takes 5 for both where neither is given")
    elif question.family == "suffix":
        command.fill_in.append(f"pip install arctic-inference, which vLLM's suffix decoding needs; options suffix_decoding_…: {AS_MEASURED}")
    elif question.family not in VLLM_METHOD:
        command.fill_in.append("the drafter's family is not in the profile: vLLM takes the method from the drafter's checkpoint where it can")
    config["num_speculative_tokens"] = max(k for _, _, k in question.lengths) or 1 if question.by_batch else question.serving.length
    if question.by_batch:
        config["num_speculative_tokens_per_batch_size"] = [list(row) for row in question.lengths]
    if question.scheduled:
        config["enable_adaptive_verification"] = True
    return config


def sglang(question: ServingQuestion) -> EngineLaunch:
    command = Command(["python3", "-m", "sglang.launch_server", "--model-path"])
    engine, serving = question.scenario.engine, question.serving
    command.words.append(command.model(question.profile.target, "target model"))
    _parallel(command, question, "--tp-size")
    command.words += ["--max-running-requests", str(engine.max_batch)]
    _longest(command, question, "--context-length")
    if question.prompt_tokens is not None:
        command.words += ["--chunked-prefill-size", str(question.prompt_tokens)]
        if engine.prefill.decodes(1) and serving.length:
            command.otherwise.append("prompt chunks beside decoding: with speculation SGLang processes prompts in steps of their own")
        elif engine.prefill.decodes(1):
            command.words.append("--enable-mixed-chunk")
    if engine.page_tokens is not None:
        command.words += ["--page-size", str(engine.page_tokens)]
    if engine.graph_sizes is not None:
        command.otherwise.append("captured graphs of the sizes given in tokens: SGLang captures by requests")
    if question.fixed_length:
        _sglang_speculation(command, question)
    if question.by_batch:
        command.otherwise.append(f"lengths by batch size: SGLang has one length, and {question.fixed_length} is the best single one by the profile")
    shared(command, question, "SGLang")
    return command.finished("SGLang")


def _sglang_speculation(command: Command, question: ServingQuestion) -> None:
    """SGLang's --speculative-… options."""
    length = question.fixed_length
    algorithm = SGLANG_ALGORITHM.get(question.family, "ALGORITHM")
    command.words += ["--speculative-algorithm", algorithm]
    if algorithm == "ALGORITHM":
        command.fill_in.append("ALGORITHM: the drafter's, which the profile does not know, for example EAGLE, EAGLE3 or STANDALONE")
    if question.of_its_own:
        command.words += ["--speculative-draft-model-path", command.model("", "drafter")]
    if question.family == "dspark":
        command.fill_in.append(BUNDLED)
        command.words += ["--speculative-dspark-block-size", str(length)]
        command.environment["SGLANG_RAGGED_VERIFY_MODE"] = "compact" if question.scheduled else "static"
    elif question.family == "dflash":
        command.words += ["--speculative-num-draft-tokens", str(length + 1)]  # the anchor included
    elif question.looks_up:
        command.words += ["--speculative-num-draft-tokens", str(length + 1), "--speculative-ngram-max-bfs-breadth", "1"]
        if question.family == "suffix":
            command.otherwise.append("suffix decoding: SGLang has none, and NGRAM comes nearest")
        every = f"SGLang's NGRAM verifies {length + 1} tokens in every one, and looks in other requests too"
        command.otherwise.append(f"rounds without a draft: {every}")
    else:
        command.words += ["--speculative-num-steps", str(length), "--speculative-eagle-topk", "1"]
        command.words += ["--speculative-num-draft-tokens", str(length + 1)]
    _draft_block(command, question)
    if question.scheduled:
        _sglang_schedule(command, question)


def _sglang_schedule(command: Command, question: ServingQuestion) -> None:
    """The files that DSpark's scheduler goes by: step costs as the scheduler believes them, and the drafter's calibration."""
    drafter, believed = question.drafter, question.scenario.believed
    assert drafter is not None
    assert question.policy.drafter is not None
    price = RoundCost(believed.costs, believed.drafter(question.policy.drafter).draft, drafter.gamma, drafter.gamma)
    table = additive_table(price, batch_sizes(question.max_batch), drafter.gamma, question.context_tokens)
    command.files["sglang-sps.json"] = additive_sps_json(table)
    command.words += ["--speculative-dspark-sps-table-path", "sglang-sps.json"]
    if drafter.temperatures:
        blocks = question.profile.blocks(question.policy.drafter)
        command.files["sglang-sts.json"] = sts_json(drafter.temperatures, blocks.source, blocks.rows)
        command.words += ["--speculative-dspark-confidence-sts-path", "sglang-sts.json"]
    _lag(command, question, "SGLang", SGLANG_LAG)


def _parallel(command: Command, question: ServingQuestion, option: str) -> None:
    if question.gpus is None:
        command.fill_in.append(f"{option}: the profile has {question.profile.gpus_per_replica:g} GPUs per replica")
    elif question.gpus > 1:
        command.words += [option, str(question.gpus)]
        command.fill_in.append(f"{option} {question.gpus} puts a replica on its {question.gpus} GPUs; split them as the profile's engine does")


def _longest(command: Command, question: ServingQuestion, option: str) -> None:
    longest = question.longest_request
    if longest is not None:
        command.words += [option, str(longest)]


def _draft_block(command: Command, question: ServingQuestion) -> None:
    """Engines draft as many tokens as they verify; where slots see one another that is another block than the recorded one."""
    lengths = {k for _, _, k in question.lengths} if question.by_batch else {question.serving.length}
    if question.drafter and question.family in ("dspark", "dflash") and any(0 < k < question.drafter.gamma for k in lengths):
        recorded = f"shorter verification of blocks of {question.drafter.gamma}, as recorded"
        command.otherwise.append(f"{recorded}: the engine drafts shorter blocks, whose acceptance may differ")


def _lag(command: Command, question: ServingQuestion, engine: str, lag: int) -> None:
    steps = ("the present step", "one step before", "two steps before")
    if question.serving.lag != lag:
        wanted = steps[question.serving.lag or 0]
        command.otherwise.append(f"confidences of {wanted}: {engine} takes those of {steps[lag]}, and this cannot be set")


_BY_PRIORITY = {"vLLM": ["--scheduling-policy", "priority"], "SGLang": ["--enable-priority-scheduling", "--schedule-low-priority-values-first"]}


def shared(command: Command, question: ServingQuestion, engine: str) -> None:
    """What all engines do otherwise."""
    scenario, serving = question.scenario, question.serving
    command.otherwise += serving.beyond
    if serving.lag is not None and not question.scheduled and engine in ("vLLM", "SGLang"):
        nearest = "lengths by batch size come nearest" if engine == "vLLM" else "one length comes nearest"
        command.otherwise.append(f"lengths by confidence for this drafter: {engine} schedules DSpark's alone; {nearest}")
    if scenario.engine.scheduler_profile is not None and engine == "vLLM" and question.scheduled:
        command.otherwise.append("the scheduler's own cost table (engine.scheduler_profile)")
    if scenario.engine.prefill.where == "elsewhere":
        command.otherwise.append(
            "prompts on other machines: this command is for the decoding servers; prefill servers and the transfer are set up apart"
        )
    if scenario.engine.prefill.where == "nowhere":
        command.otherwise.append("no prompts: the server has to process them beside decoding")
    if scenario.engine.admission.ranks and engine in _BY_PRIORITY:
        command.words += _BY_PRIORITY[engine]
        command.fill_in.append("requests carry the `priority` of their class")
        if engine == "SGLang":
            command.otherwise.append(
                "nobody preempted to let another in: SGLang does where priorities differ by 10 (--priority-scheduling-preemption-threshold)"
            )
    elif scenario.engine.admission.looks:
        command.otherwise.append(f"requests admitted by {scenario.engine.admission.words}: {engine} admits in order of arrival")
    if scenario.engine.kv_tokens is not None and engine != "llama.cpp":
        command.otherwise.append(f"KV memory for {scenario.engine.kv_tokens:,} tokens: {engine} takes what is free, see its log")
    if scenario.engine.prefix_cache is None:
        command.otherwise.append("no prefix cache but what the traffic records as cached: the engine's is on by default")
    if scenario.fleet.replicas > 1:
        routing = scenario.fleet.routing.words
        command.fill_in.append(f"start it on {scenario.fleet.replicas} servers, and put a load balancer in front ({routing} was simulated)")
