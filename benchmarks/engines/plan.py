"""What is measured: engines with their pinned releases, policies with the server's flags, conditions and loads. Change it here, nowhere else.

In flags, `{target}`, `{gguf}`, `{draft}`, `{eagle3}`, … are paths of models (models.py makes them), and `{port}` is a free port.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

MODEL = "SmolLM2-135M-Instruct"
SERVED = "smollm2"  # its name at the servers
CONTEXT = 1024  # tokens of prompt and answer that a request may have
USERS = 16  # most users of a closed loop
SEED = 17
PREFIXED = "prefix"  # domain of prompts that begin alike: what a drafter has accepted depends on them


@dataclass(frozen=True)
class Policy:
    """A way to serve: `drafter` is its name in the profile (empty: none), `length` the tokens that it drafts."""

    name: str
    drafter: str = ""
    length: int = 0
    flags: str = ""


@dataclass(frozen=True)
class Condition:
    """Cells of `policies` × `loads`. A load is a number of users, or with `knee` a share of the requests per second that ordinary decoding can do.

    `answers` is the tokens of an answer; with `eos` answers may end before. `prefix`: all prompts begin alike, and the server may keep that.
    A cell has `requests` requests or `per_user` for each user, whichever is more, and is measured `repeats` times, each with its own prompts.
    """

    name: str
    policies: tuple[str, ...]
    loads: tuple[float, ...]
    knee: bool = False
    prefix: bool = False
    eos: bool = False
    answers: int = 64
    requests: int = 6
    per_user: int = 3
    repeats: int = 2


@dataclass(frozen=True)
class Probe:
    """A short benchmark for the profile, with prompts of its own. `eos`: to see how long answers are; `prefix`: prompts begin alike, and the server
    does not keep that, for acceptance behind them."""

    policy: str
    load: int
    requests: int
    eos: bool = False
    prefix: bool = False


@dataclass(frozen=True)
class Engine:
    """A release of an engine, how it is served, and what is measured of it.

    `serve` are the words of the server's command, `cached` and `uncached` more of them, that let it keep beginnings of prompts or not; `body` is
    what a request says so that none is kept. `block` is how many tokens of a beginning are kept at once. `batch`, `budget`: requests at once, and
    tokens of a step. `memory_gb`: what a server takes at most. `client` are more words of the client's command. `importer`: the word after
    `dsim import`.
    """

    name: str
    label: str
    serve: str
    cached: str
    uncached: str
    health: str
    policies: tuple[Policy, ...]
    conditions: tuple[Condition, ...]
    probes: tuple[Probe, ...]
    batch: int
    budget: int
    block: int
    memory_gb: float
    start_s: float = 420
    environment: dict[str, str] = field(default_factory=dict)
    body: str = ""
    client: str = ""
    importer: str = "vllm"

    def policy(self, name: str) -> Policy:
        """That of this name."""
        return next(policy for policy in self.policies if policy.name == name)


def _ngram(length: int) -> Policy:
    config = f'{{"method":"ngram","num_speculative_tokens":{length},"prompt_lookup_max":4,"prompt_lookup_min":2}}'
    return Policy(f"ngram{length}", "ngram", length, f"--speculative-config {config}")


def _model(name: str, drafter: str, method: str, path: str) -> Policy:
    return Policy(name, drafter, 3, f'--speculative-config {{"method":"{method}","model":"{path}","num_speculative_tokens":3}}')


VLLM_POLICIES = (
    Policy("none"),
    _ngram(1),
    _ngram(3),
    _ngram(5),
    _model("draft3", "draft", "draft_model", "{draft}"),
    _model("eagle3", "eagle3", "eagle3", "{eagle3}"),
)

VLLM = Engine(  # float32: without AVX-512 its products of bfloat16 take more than twice as long; eager: Eagle3 runs in no other way on a CPU
    name="vllm",
    label="vLLM 0.32.0 (CPU)",
    serve=f"{{engine}}/bin/vllm serve {{target}} --served-model-name {SERVED} --host 127.0.0.1 --port {{port}} --dtype float32 --enforce-eager"
    f" --max-model-len {CONTEXT} --max-num-seqs 32 --max-num-batched-tokens 2048 --block-size 32 --kv-cache-memory-bytes 500000000",
    cached="--enable-prefix-caching",
    uncached="--no-enable-prefix-caching",
    health="/health",
    policies=VLLM_POLICIES,
    conditions=(
        Condition("base", tuple(policy.name for policy in VLLM_POLICIES), (1, 2, 4, 8, 16)),
        Condition("prefix", ("none", "ngram3"), (1, 4, 16), prefix=True, requests=24, repeats=1),
        Condition("eos", ("none", "eagle3"), (2, 8), eos=True, answers=128, requests=10, repeats=1),
        Condition("open60", ("none", "ngram3"), (0.6,), knee=True, requests=60, repeats=1),
        Condition("open90", ("none", "ngram3"), (0.9,), knee=True, requests=60, repeats=1),
    ),
    probes=(  # in an order in which a machine that drifts drifts for all policies
        Probe("none", 1, 6),
        Probe("none", 4, 12),
        Probe("ngram3", 2, 12),
        Probe("draft3", 2, 8),
        Probe("eagle3", 2, 12),
        Probe("none", 16, 32),
        Probe("ngram3", 8, 32),
        Probe("draft3", 12, 24),
        Probe("eagle3", 12, 36),
        Probe("none", 8, 24),
        Probe("ngram3", 14, 42),  # a step of 56 tokens: those of cells have up to 96
        Probe("none", 2, 8),
        Probe("none", 3, 9),  # where no cell is, and steps with drafted tokens are: an engine's kernels change with the number of tokens
        Probe("none", 6, 18),
        Probe("none", 12, 36),
        Probe("none", 24, 48),
        Probe("ngram3", 8, 64, prefix=True),
        Probe("none", 16, 32, eos=True),
    ),
    batch=32,
    budget=2048,
    block=32,
    memory_gb=3.2,
    environment={
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    },
)

LLAMA_POLICIES = (  # DSpark's block of 3 is another block than its first 3 of 5: two drafters to the profile
    Policy("none", flags="--spec-type none"),
    Policy("ngram3", "ngram", 3, "--spec-type ngram-simple --spec-ngram-simple-size-n 2 --spec-ngram-simple-size-m 3"),
    Policy("dspark3", "dspark3", 3, "--spec-type draft-dspark -md {dspark} --spec-draft-n-max 3 --spec-draft-p-min 0"),
    Policy("dspark5", "dspark5", 5, "--spec-type draft-dspark -md {dspark} --spec-draft-n-max 5 --spec-draft-p-min 0"),
    Policy("draft3", "draft", 3, "--spec-type draft-simple -md {draft_gguf} --spec-draft-n-max 3 --spec-draft-p-min 0"),
)

LLAMA = Engine(
    name="llama",
    label="llama.cpp b11434",
    serve=f"{{llama_server}} -m {{gguf}} --alias {SERVED} --host 127.0.0.1 --port {{port}} --parallel 8 --kv-unified -c {8 * CONTEXT}"
    " -b 2048 -ub 512 -t 1 -tb 1 --metrics",
    cached="",
    uncached="",
    health="/health",
    policies=LLAMA_POLICIES,
    conditions=(
        Condition("base", tuple(policy.name for policy in LLAMA_POLICIES), (1, 2, 4, 8)),
        Condition("prefix", ("none", "dspark3"), (1, 4), prefix=True, requests=24, repeats=1),
        Condition("eos", ("none", "dspark3"), (2, 8), eos=True, answers=128, repeats=1),
        Condition("open60", ("none", "dspark3"), (0.6,), knee=True, requests=60, repeats=1),
        Condition("open90", ("none", "dspark3"), (0.9,), knee=True, requests=60, repeats=1),
    ),
    probes=(
        Probe("none", 1, 10),
        Probe("none", 2, 12),
        Probe("none", 4, 16),
        Probe("none", 8, 32),
        Probe("none", 3, 12),
        Probe("none", 6, 24),
        Probe("ngram3", 2, 16),
        Probe("ngram3", 8, 32),
        Probe("dspark3", 2, 12),
        Probe("dspark3", 8, 24),
        Probe("dspark5", 2, 12),
        Probe("dspark5", 8, 24),
        Probe("draft3", 2, 8),
        Probe("draft3", 8, 16),
        Probe("dspark3", 8, 24, prefix=True),
        Probe("none", 8, 32, eos=True),
    ),
    batch=8,
    budget=2048,
    block=1,
    memory_gb=1.0,
    start_s=120,
    environment={"OMP_NUM_THREADS": "1"},
    body='{"cache_prompt": false}',
    client="--header Connection=close",  # llama-server closes connections that were quiet for 5 s, some of them while the client writes
    importer="llamacpp",
)

ENGINES = {engine.name: engine for engine in (VLLM, LLAMA)}


def small(engine: Engine) -> Engine:
    """The same with few and short cells: a rehearsal, whose numbers say nothing."""
    conditions = tuple(replace(each, loads=each.loads[:2], requests=3, per_user=1, answers=12, repeats=1) for each in engine.conditions)
    return replace(engine, conditions=conditions, probes=tuple(replace(each, requests=3) for each in engine.probes))
