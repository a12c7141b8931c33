"""What drafters cost by their sizes: against published sizes, bytes counted by hand, and kernels that others measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from simulator.errors import CheckpointError, DsimError
from simulator.study.estimate.draft_prices import DraftPrices, price_drafter
from simulator.study.estimate.drafters import DrafterShape, read_drafter
from simulator.study.estimate.operators import Operators
from simulator.study.estimate.package import Deployment
from simulator.study.estimate.shapes import Attention, Gemm, Shape, Sizes, Streamed

QWEN_4B, QWEN_8B, QWEN_14B = (
    Sizes(36, 2560, 9728, 32, 8, 128, 151_936, True),
    Sizes(36, 4096, 12_288, 32, 8, 128, 151_936, True),
    Sizes(40, 5120, 17_408, 40, 8, 128, 151_936, True),
)
GOLDEN = Path(__file__).parents[1] / "golden"
TOY = Sizes(6, 64, 192, 4, 2, 16, 30, True)


def shaped(said: str, sizes: Sizes = QWEN_8B) -> DrafterShape:
    return read_drafter(said, "Qwen/Qwen3-8B", sizes)


class Bytes:
    """Stands for the package: an operator takes a nanosecond for every weight that it reads; what has none, next to nothing.

    Of attention it is as many nanoseconds as tokens are read.
    """

    number_s = 0.0  # of one that an elementwise kernel reads or writes

    def __init__(self, tp: int = 1, sizes: Sizes = QWEN_8B) -> None:
        self.of, self.sizes, self.quantisation = Deployment("Qwen/Qwen3-8B", "h200_sxm", "vllm", tp=tp), sizes, {"kv": "bfloat16"}
        self.sources: dict[str, str] = {}
        self.version, self.kv_bytes = "0", 147_456.0
        self.asked: list[tuple[Shape, float]] = []

    def priced(self, shape: Shape, tokens: float, context: float = 1) -> float:
        self.asked.append((shape, tokens))
        if isinstance(shape, Gemm):
            return shape.inputs * shape.outputs * shape.count * 1e-9
        if isinstance(shape, Streamed):
            return 1e-15 + tokens * (shape.read + shape.written) * shape.count * self.number_s
        return tokens * context * shape.count * 1e-9 if isinstance(shape, Attention) else 1e-15

    def layer_s(self, tokens: float) -> float:
        return 1e-3

    def attention_s(self, requests: float, context: float) -> float:
        return requests * context * self.sizes.layers * 1e-9


def prices(said: str | DrafterShape, tp: int = 1, sizes: Sizes = QWEN_8B) -> DraftPrices:
    shape = shaped(said, sizes) if isinstance(said, str) else said
    return DraftPrices(cast(Operators, Bytes(tp, sizes)), shape)


def drawn(requests: int) -> float:
    """A vocabulary's numbers drawn for each request, 4.5 ps each: 0.919 ms for 1,024 times 200,000."""
    return requests * 151_936 * 4.49e-12


@pytest.mark.parametrize(
    ("said", "sizes", "millions", "kv_bytes"),
    [  # checkpoints of the DSpark paper, without embedding and head: 5 layers, the fusing projection and, of DSpark, the Markov head
        ("dspark-7", QWEN_4B, 504.7 + 32.8 + 77.8, 20_480),
        ("dspark-7", QWEN_8B, 964.7 + 83.9 + 77.8, 20_480),
        ("dspark-7", QWEN_14B, 1651.6 + 131.1 + 77.8, 20_480),
        ("dflash-7", QWEN_8B, 964.7 + 83.9, 20_480),
        ("eagle3-7", QWEN_4B, 149, 4096),
        ("eagle3-7", QWEN_8B, 302, 4096),
        ("eagle3-7", QWEN_14B, 498, 4096),
        ("mtp-1", QWEN_8B, 0, 4096),
    ],
)
def test_sizes_that_follow_from_the_target_are_those_of_the_released_drafters(said: str, sizes: Sizes, millions: float, kv_bytes: int) -> None:
    found = prices(said, sizes=sizes)
    assert found.shape.parameters / 1e6 == pytest.approx(millions, abs=0.6)
    assert found.kv_bytes == kv_bytes


def test_a_block_reads_its_layers_once_its_vocabulary_once_and_the_markov_head_for_every_slot() -> None:
    found = prices("dspark-7")
    assert found.once_s(64, 0) == pytest.approx(0.9647 + 5 * 64e-9, rel=1e-3)  # 965 million weights, and 64 requests that read a token each
    assert found.once_s(64, 1000) - found.once_s(64, 0) == pytest.approx(5 * 64 * 999e-9)
    assert found.slots_s(7, 64, 0) == pytest.approx(0.6223 + 7 * (0.0389 + drawn(64)), rel=1e-3)
    assert found.slots_s(3, 64, 0) == pytest.approx(0.6223 + 3 * (0.0389 + drawn(64)), rel=1e-3)
    assert found.absorb_s(512) == pytest.approx(0.0839 + 5 * 2 * 1024 * 4096e-9, rel=1e-3)
    seen = cast(Bytes, found.operators).asked
    assert {tokens for shape, tokens in seen if shape.name == "draft_qkv"} == {7 * 64}
    assert {tokens for shape, tokens in seen if shape.name == "draft_logits"} == {7 * 64, 3 * 64}
    assert {tokens for shape, tokens in seen if shape.name == "draft_markov"} == {64}


def test_a_chain_reads_its_vocabulary_for_every_slot_and_its_layer_again_for_all_but_the_first() -> None:
    eagle, layer, head = prices("eagle3-7"), 0.3020 - 0.0839, 0.6223 + drawn(64)
    assert eagle.once_s(64, 1000) == pytest.approx(64_000e-9, rel=1e-3)  # the layer of its first pass is paid with the features that it takes in
    assert eagle.absorb_s(512) == pytest.approx(0.3020, rel=1e-3)
    assert eagle.slots_s(1, 64, 1000) == pytest.approx(head, rel=1e-3)
    assert eagle.slots_s(7, 64, 1000) == pytest.approx(7 * head + 6 * (layer + 64_000e-9), rel=1e-3)
    mtp, enters = prices("mtp-3"), 2 * 4096 * 4096e-9
    assert mtp.slots_s(3, 64, 1000) == pytest.approx(3 * head + 2 * (1e-3 + enters + 64_000e-9), rel=1e-3)
    assert mtp.absorb_s(512) == pytest.approx(1e-3 + enters, rel=1e-3)


def test_drawing_takes_its_noise_or_its_memory_and_drafted_tokens_are_judged() -> None:
    found, words = prices("dflash-7"), 64 * 151_936
    of = cast(Bytes, found.operators)
    of.number_s = 1e-12
    assert found.draw_s(64) == pytest.approx(drawn(64), rel=1e-3)  # three numbers of memory would be 3 ps
    of.number_s = 1e-9
    assert found.draw_s(64) == pytest.approx(3e-9 * words)  # logits read, kept in float32
    assert found.judge_s(64) == pytest.approx(7e-9 * words, rel=1e-4)  # read, written in float32; that and the draft's read again
    assert found.slots_s(7, 64, 0) == pytest.approx(0.6223 + 7 * 10e-9 * words, rel=1e-3)
    chain = prices("mtp-1")
    cast(Bytes, chain.operators).number_s = 1e-9
    assert chain.slots_s(1, 64, 0) == pytest.approx(0.6223 + 10e-9 * words, rel=1e-3)


def test_gates_and_states_of_the_markov_head_are_paid_in_every_slot() -> None:
    shape = shaped("dspark-7")
    plain, gated, rnn = (prices(replace(shape, markov_kind=kind)).slots_s(7, 1, 0) for kind in ("vanilla", "gated", "rnn"))
    assert gated - plain == pytest.approx(7 * (4096 + 256) * 256e-9)
    assert rnn - plain == pytest.approx(7 * (4096 + 512) * 768e-9)


def test_layers_and_vocabulary_are_split_over_the_gpus_but_not_the_markov_head() -> None:
    whole, split = prices("dspark-7"), prices("dspark-7", tp=4)
    assert split.once_s(8, 0) == pytest.approx(whole.once_s(8, 0) / 4, rel=1e-3)
    assert split.slots_s(7, 8, 0) == pytest.approx(0.6223 / 4 + 7 * (0.0389 + drawn(8)), rel=1e-3)
    assert {"draft_reduce", "draft_logits_gather"} <= {shape.name for shape, _ in cast(Bytes, split.operators).asked}
    assert split.kv_bytes == whole.kv_bytes
    assert split.weight_bytes == pytest.approx(2e6 * (964.7 + 4 * (83.9 + 77.8)), rel=1e-3)
    with pytest.raises(DsimError, match="32 heads and 12288 inner numbers of the drafter cannot be split over 5 GPUs; use a smaller --tp"):
        prices("dspark-7", tp=5)


def test_windows_end_what_is_read() -> None:
    shape = replace(shaped("dspark-7"), windows=(None, 100, 100, 100, 100))
    added = prices(shape).once_s(10, 5000) - prices(shape).once_s(10, 100)
    assert added == pytest.approx(10 * 4900e-9)


def test_tables_are_what_was_priced(tmp_path: Path) -> None:
    for said in ("dspark-7", "eagle3-3", "mtp-1"):
        found = prices(said)
        priced = price_drafter(found.operators, found.shape, said, requests=(1, 8), contexts=(0, 1000), tokens=(1, 64))
        for file, rows in priced.files.items():
            lines = [",".join(rows[0]), *(",".join(repr(value) for value in row.values()) for row in rows)]
            (tmp_path / file).write_text("\n".join(lines) + "\n")
        cost = priced.cost
        cost.attach(tmp_path)
        assert (cost.provenance, cost.takes_in) == ("estimated", True)
        for slots in range(1, found.shape.gamma + 1):
            assert cost.seconds(8, 1000, slots) == pytest.approx(found.once_s(8, 1000) + found.slots_s(slots, 8, 1000), rel=1e-9)
        assert cost.absorb_s([64], 0).tolist() == pytest.approx([found.absorb_s(64)])


@pytest.mark.parametrize("name", ["dflash", "dspark_gated", "dspark_rnn", "dspark_vanilla", "eagle3", "gemma4_dspark"])
def test_a_folder_s_sizes_are_those_of_its_weights(name: str) -> None:
    tensors = pytest.importorskip("safetensors").safe_open(GOLDEN / name / "model.safetensors", "numpy")
    sizes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    shared = ("embed_tokens", "lm_head", "norm", "confidence_head", "bias", "layer_scalar")
    count = sum(int(shape[0] * shape[1]) for key, shape in sizes.items() if len(shape) == 2 and not any(part in key for part in shared))
    assert read_drafter(str(GOLDEN / name), "toy", TOY).parameters == count


def config(folder: Path, **changed: Any) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(json.loads((GOLDEN / "dspark_vanilla/config.json").read_text()) | changed))
    return str(folder)


def test_a_folder_may_have_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    shape = read_drafter(config(tmp_path / "a", draft_vocab_size=20), "toy", TOY)
    assert (shape.vocabulary, shape.own_head) == (20, True)
    assert shape.parameters - read_drafter(config(tmp_path / "b"), "toy", TOY).parameters == 20 * 64 - 10 * 8  # a head of its own, fewer biases


def test_heads_share_the_hidden_size_where_their_own_is_not_said(tmp_path: Path) -> None:
    assert read_drafter(config(tmp_path / "a", head_dim=None), "toy", TOY) == read_drafter(config(tmp_path / "b"), "toy", TOY)


def test_what_is_not_a_drafter_of_the_target_is_refused_in_one_line(tmp_path: Path) -> None:
    for said in ("dspark-0", "dspark-128", "eagle-7", "no/such/folder"):
        with pytest.raises(DsimError, match=f"--drafter: no such drafter: '{said}'; give a folder with config.json, or dspark-7"):
            shaped(said)
    with pytest.raises(DsimError, match="'deepseek-ai/dspark_qwen3_4b_block7' is a drafter of qwen3_4b, not of Qwen/Qwen3-8B"):
        shaped("deepseek-ai/dspark_qwen3_4b_block7")
    with pytest.raises(
        DsimError, match="'dflash-7' has no sizes that follow from Qwen/Qwen3-8B: its layers are not all plain attention of one size; give"
    ):
        shaped("dflash-7", replace(QWEN_8B, alike=False))
    with pytest.raises(CheckpointError, match="hidden_size: 64 is not the target's, 4096"):
        shaped(str(GOLDEN / "eagle3"))
    with pytest.raises(CheckpointError, match="quantization_config: a quantised drafter is not priced"):
        read_drafter(config(tmp_path / "q", quantization_config={"quant_method": "fp8"}), "toy", TOY)
    assert shaped("deepseek-ai/dspark_qwen3_8b_block7") == shaped("dspark-7")
    assert shaped("mtp-2", replace(QWEN_8B, alike=False)).gamma == 2


# --- the kernels that the package has, against bytes and FLOPs by hand ---

FLOPS = 790e12  # what large bf16 products reach on an H200, of 989e12 on paper
BANDWIDTH = 0.8 * 4.8e12  # of its memory, as kernels that stream reach it


@pytest.fixture(scope="module")
def h200() -> Operators:
    pytest.importorskip("aiconfigurator_core")
    return Operators(Deployment("Qwen/Qwen3-8B", "h200_sxm", "vllm"))


def test_sizes_of_the_target_and_its_mean_layer_are_the_package_s(h200: Operators) -> None:
    assert (h200.sizes, h200.kv_bytes) == (QWEN_8B, 147_456)
    apart = sum(h200.priced(shape, 64) for shape in (Gemm("test_logits", 4096, 151_936), Streamed("test_embedding", 4096, 4096)))
    assert 36 * h200.layer_s(64) + apart == pytest.approx(h200.tokens_s(64), rel=0.001)


def test_a_verification_step_is_what_bytes_and_flops_allow(h200: Operators) -> None:
    """64 requests at 1,024 tokens verify 7 drafted tokens each: 512 tokens."""
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 12_288
    products = 2 * 512 * (36 * layer + 4096 * 151_936) / FLOPS
    cache = 64 * 1024 * 36 * 2 * 1024 * 2 / BANDWIDTH
    by_hand = products + cache
    step = h200.tokens_s(512) + max(h200.attention_s(64, 1024), 512 * 1024 * h200.query_s())
    assert by_hand == pytest.approx(12.3e-3, rel=0.01)
    assert by_hand < step < 1.25 * by_hand
    assert h200.attention_s(512, 1024) > 1.4 * step  # each token as a request of its own: what speculation is not


def test_drafting_a_block_is_what_bytes_and_flops_allow(h200: Operators) -> None:
    """The same requests draft 7 tokens: 448 through 5 layers, their logits, 7 steps of the Markov head, and 512 tokens' features taken in."""
    layers, vocabulary, rank = 5 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 12_288), 151_936, 256
    block = 2 * 448 * layers / FLOPS + 64 * 1024 * 20_480 / BANDWIDTH
    logits = 2 * 448 * 4096 * vocabulary / FLOPS
    slot = (2 * rank * vocabulary + 64 * vocabulary * (2 + 4 + 2)) / BANDWIDTH + drawn(64)  # bias written, both read, sum written
    judged = 448 * vocabulary * (2 + 4 + 4 + 4) / BANDWIDTH  # the target's logits cast to float32, both read
    taken_in = 2 * 512 * 4096 * (5 * 4096 + 5 * 2 * 1024) / FLOPS
    by_hand = block + logits + 7 * slot + judged + taken_in
    found = DraftPrices(h200, shaped("dspark-7"))
    assert by_hand == pytest.approx(3.14e-3, rel=0.02)
    assert by_hand < found.once_s(64, 1024) + found.slots_s(7, 64, 1024) + found.absorb_s(512) < 1.25 * by_hand


def test_a_slot_of_the_markov_head_takes_a_time_like_the_published_one(h200: Operators) -> None:
    """Figure 4 of the DSpark paper: rounds of 128 requests, 4 and 16 tokens, DSpark's growth less DFlash's; its hardware is not said."""
    published = ((194.997 - 188.098) - (192.483 - 187.693)) / 12 / 1000
    assert 0.4 * published < DraftPrices(h200, shaped("dspark-7", QWEN_4B)).markov_s(128) < published
