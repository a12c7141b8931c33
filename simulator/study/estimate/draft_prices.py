"""What a drafter costs, composed of operators of its sizes: the passes through its layers, its head slot by slot, and the target's features that it
takes in.

As vLLM runs them: the draft step is a captured graph, tensor parallel like the target (draft_tensor_parallel_size), the fusing projection and the
Markov head whole on every GPU, the vocabulary split and gathered; tokens are drawn, not the likeliest taken, and what they were drawn from is kept
for the sampler that judges them. Features of all tokens of a step are taken in, those rejected too. Attention's arithmetic is left out: queries of a
block are too few for it to take longer than reading the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from simulator.errors import DsimError
from simulator.measurements.cost import DraftTable
from simulator.study.estimate.drafters import DrafterShape
from simulator.study.estimate.operators import Operators
from simulator.study.estimate.shapes import AllGather, AllReduce, Attention, Gemm, Shape, Streamed

REQUESTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CONTEXTS = (0, 1024, 4096, 16_384, 65_536)
TOKENS = (1, 8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16_384)
_KV_BYTES = {"bfloat16": 2, "int8": 1, "fp8": 1}
_DRAWN_S = 0.919e-3 / (1024 * 200_000)  # a number, of a kernel that draws by arithmetic: vllm-project/vllm pulls 37798 (time), 34854 (its shape)
_LAUNCH = Streamed("draft_launch", 1, 1)  # between two graphs: what the package gives the smallest kernel


class PricedDrafter(NamedTuple):
    """A drafter's part of a profile: its cost, the CSV files that this names (header and rows), its memory, and what was assumed."""

    cost: DraftTable
    files: dict[str, list[dict[str, float]]]
    kv_bytes_per_token: float
    weight_bytes: float
    notes: list[str]


@dataclass
class DraftPrices:
    """Seconds of the parts of drafting. Raises DsimError where its heads cannot be split as the target's are."""

    operators: Operators
    shape: DrafterShape

    def __post_init__(self) -> None:
        if self.shape.heads % self.tp or self.shape.intermediate % self.tp:
            problem = f"{self.shape.heads} heads and {self.shape.intermediate} inner numbers of the drafter cannot be split over {self.tp} GPUs"
            raise DsimError(problem, where="--drafter", remedy="use a smaller --tp")

    @property
    def tp(self) -> int:
        return self.operators.of.tp

    @property
    def kv_bytes(self) -> float:
        """Bytes per token of its own cache, on all GPUs that hold a part of it."""
        of = self.shape
        if not of.layers:
            return self.operators.kv_bytes / self.operators.sizes.layers
        return float(of.layers * self._kv_width() * self.tp * _KV_BYTES[self.operators.quantisation["kv"]])

    @property
    def weight_bytes(self) -> float:
        """Bytes of its weights on all GPUs together, in bfloat16; what is whole on every one of them counts once for each. 0 for MTP."""
        whole = self.shape.replicated
        return 2.0 * (self.shape.parameters - whole + whole * self.tp) * self.operators.of.dp

    def notes(self) -> list[str]:
        """What was assumed, in lines for a profile."""
        of = self.shape
        how = f"{of.gamma} passes" if of.chain else f"one pass of {of.block} tokens per request"
        runs = f"bfloat16, captured graphs, tensor parallel {self.tp} like the target; tokens are drawn"
        said = [f"drafter {of.family}-{of.gamma}: {of.origin}; {how}, {runs}"]
        modelled = sorted(name for name, source in self.operators.sources.items() if name.startswith("draft_") and source != "silicon")
        return said + ([f"not from measured kernels: {', '.join(modelled)}"] if modelled else [])

    def _sum(self, shapes: Sequence[Shape], tokens: float) -> float:
        return sum(self.operators.priced(shape, tokens) for shape in shapes)

    def _kv_width(self) -> int:
        """Numbers of keys and values of one layer on one GPU."""
        return self.shape.parts * -(-self.shape.kv_heads // self.tp) * self.shape.head_size

    def layers_s(self, tokens: float) -> float:
        """The layers at `tokens` tokens, attention left out."""
        of, tp = self.shape, self.tp
        if not of.layers:
            return self.operators.layer_s(tokens) + self._sum([Gemm("draft_eh_proj", 2 * of.hidden, of.hidden)], tokens)
        inner, wide, count = of.intermediate // tp, of.heads * of.head_size // tp, of.layers
        shapes: list[Shape] = [
            Streamed("draft_norms", 2 * of.entering, 2 * of.entering, 2 * count),
            Gemm("draft_qkv", of.entering, wide + self._kv_width(), count),
            Gemm("draft_proj", wide, of.hidden, count),
            Gemm("draft_ffn1", of.hidden, 2 * inner, count),
            Streamed("draft_act", 2 * inner, inner, count),
            Gemm("draft_ffn2", inner, of.hidden, count),
        ]
        return self._sum([*shapes, *([AllReduce("draft_reduce", of.hidden, 2 * count)] if tp > 1 else [])], tokens)

    def attention_s(self, requests: float, context: float) -> float:
        """The layers' attention for a pass of all requests: their cache is read once, whatever the tokens of a block."""
        of, own = self.shape, max(context, 1)
        if not of.layers:
            return self.operators.attention_s(requests, own) / self.operators.sizes.layers
        reads = [min(own, window) if window else own for window in of.windows or (None,) * of.layers]
        one = Attention("draft_attention", of.heads // self.tp, -(-of.kv_heads // self.tp), of.head_size)
        return sum(self.operators.priced(one, requests, read) for read in reads)

    def vocabulary_s(self, tokens: float) -> float:
        """The head's logits of `tokens` tokens, gathered."""
        of = self.shape
        gather: list[Shape] = [AllGather("draft_logits_gather", of.vocabulary)] if self.tp > 1 else []
        return self._sum([Gemm("draft_logits", of.hidden, -(-of.vocabulary // self.tp)), *gather], tokens)

    def draw_s(self, tokens: float) -> float:
        """A token is drawn from logits, and what it was drawn from is kept in float32: the noise of every number takes longer than its memory."""
        kept = self._sum([Streamed("draft_draw", self.shape.vocabulary, 2 * self.shape.vocabulary)], tokens)
        return max(kept, tokens / self.operators.of.dp * self.shape.vocabulary * _DRAWN_S)

    def judge_s(self, tokens: float) -> float:
        """What drafted tokens add to the sampler that judges them: the target's logits gathered, cast to float32, and held against theirs."""
        words = self.shape.input_vocabulary
        gather: list[Shape] = [AllGather("draft_judge_gather", words)] if self.tp > 1 else []
        return self._sum([*gather, Streamed("draft_judge_cast", words, 2 * words), Streamed("draft_judge", 4 * words, 1)], tokens)

    def markov_s(self, requests: float) -> float:
        """One slot of the sequential head: the previous token's embedding, through the gate or state, to a bias on the logits."""
        of, rank = self.shape, self.shape.markov_rank
        before: dict[str, list[Shape]] = {
            "vanilla": [],
            "gated": [Gemm("draft_markov_gate", of.hidden + rank, rank), Streamed("draft_gate", 2 * rank, rank)],
            "rnn": [Gemm("draft_markov_joint", of.hidden + 2 * rank, 3 * rank), Streamed("draft_state", 4 * rank, 2 * rank)],
        }
        bias: list[Shape] = [Streamed("draft_markov_embed", rank, rank), Gemm("draft_markov", rank, of.vocabulary)]
        added = Streamed("draft_markov_add", 2 * of.vocabulary, of.vocabulary)
        return self._sum([*before[of.markov_kind], *bias, added], requests)

    def once_s(self, requests: float, context: float) -> float:
        """Paid once a round: the pass of a block, or the attention of a chain's first pass, whose tokens are those that it takes in."""
        launch = self.operators.priced(_LAUNCH, 1)
        if self.shape.chain:
            return launch + self.attention_s(requests, context)
        embedding = self._sum([Streamed("draft_embedding", self.shape.hidden, self.shape.hidden)], requests * self.shape.block)
        return launch + embedding + self.layers_s(requests * self.shape.block) + self.attention_s(requests, context)

    def slots_s(self, slots: int, requests: float, context: float) -> float:
        """What `slots` drafted tokens of each request add, with what the target's sampler does with them."""
        of = self.shape
        if of.chain:
            again = self.layers_s(requests) + self.attention_s(requests, context) if slots > 1 else 0.0
            launch = self.operators.priced(_LAUNCH, 1) if slots > 1 else 0.0
            heads = slots * (self.vocabulary_s(requests) + self.draw_s(requests))
            return launch + heads + (slots - 1) * again + self.judge_s(requests * slots)
        confidence: list[Shape] = [Streamed("draft_confidence", of.hidden + of.markov_rank, 1)] if of.confidence else []
        logits = self.vocabulary_s(requests * slots) + self._sum(confidence, requests * slots) + self.judge_s(requests * slots)
        if not of.markov_rank:
            return logits + self.draw_s(requests * slots)
        return logits + slots * (self.markov_s(requests) + self.draw_s(requests))

    def absorb_s(self, tokens: float) -> float:
        """Features of `tokens` tokens of the target are fused and made keys and values of every layer; a chain sends them through its layer."""
        of = self.shape
        fused: list[Shape] = []
        if of.taps:
            wide, norm = of.taps * of.hidden, Streamed("draft_feature_norm", of.hidden, of.hidden)
            fused = [Streamed("draft_features", wide, wide), Gemm("draft_fuse", wide, of.hidden), norm]
        if of.chain:
            return self._sum(fused, tokens) + self.layers_s(tokens)
        width = of.layers * self._kv_width()
        return self._sum([*fused, Gemm("draft_context_kv", of.hidden, width), Streamed("draft_context_write", 2 * width, 2 * width)], tokens)


def price_drafter(
    operators: Operators,
    shape: DrafterShape,
    name: str = "draft",
    requests: Sequence[int] = REQUESTS,
    contexts: Sequence[int] = CONTEXTS,
    tokens: Sequence[int] = TOKENS,
) -> PricedDrafter:
    """The cost of drafting under `operators`' deployment, by requests and context, as `name`_once.csv, `name`_slots.csv and `name`_absorb.csv.

    Raises DsimError where an operator cannot be priced.
    """
    prices = DraftPrices(operators, shape)
    once = [{"requests": r, "context_tokens": c, "p50_s": prices.once_s(r, c)} for r in requests for c in contexts]
    if shape.chain:  # a line in the slots
        ends = sorted({1, shape.gamma})
        slots = [{"slots": k, "requests": r, "context_tokens": c, "p50_s": prices.slots_s(k, r, c)} for r in requests for c in contexts for k in ends]
    else:
        slots = [{"slots": k, "requests": r, "p50_s": prices.slots_s(k, r, 0)} for r in requests for k in range(1, shape.gamma + 1)]
    absorbed = [{"tokens": n, "p50_s": prices.absorb_s(n)} for n in tokens]
    files = {f"{name}_{part}.csv": rows for part, rows in (("once", once), ("slots", slots), ("absorb", absorbed))}
    source = f"aiconfigurator-core's operators ({operators.of.system}, {operators.of.engine} {operators.version}) at the drafter's sizes"
    file, head, absorb = files
    note = f"{shape.family}-{shape.gamma}: {shape.origin}"
    cost = DraftTable(file=file, head=head, absorb=absorb, provenance="estimated", source=source, note=note)
    return PricedDrafter(cost, files, prices.kv_bytes, prices.weight_bytes, prices.notes())
