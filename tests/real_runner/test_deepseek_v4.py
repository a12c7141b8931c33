"""DeepSeek-V4 with its fused drafter computes what DeepSeek's own code does, in memory and one layer at a time; mistakes of its kind are seen."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from weakref import WeakSet

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from real_runner.blocks import record_blocks, served
from real_runner.deepseek_v4 import attention, layers, model, parts, streamed
from real_runner.deepseek_v4.expected import INPUTS, forward
from real_runner.deepseek_v4.needs import needs
from real_runner.deepseek_v4.storage import dense
from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.expect import compare
from real_runner.layout import Tiers
from real_runner.records import ServedRequest
from real_runner.target import load_target
from real_runner.texts import Text
from simulator.cli import app
from simulator.errors import DsimError
from simulator.measurements.acceptance_library import load_acceptance
from simulator.measurements.drafters.deepseek_v4 import read_v4
from simulator.measurements.drafters.inventory import inventory
from simulator.policies.verification import ConfidenceScheduled, FixedLength, NoSpeculation, Threshold
from simulator.progress import Progress

from .conftest import GOLDEN

FOLDER = GOLDEN / "deepseek_v4"
STORAGES = ("float32", "released_dtypes")
QUIET = Progress(quiet=True)
WITHIN = 1e-4


@cache
def loaded(storage):
    target = load_target(str(FOLDER / storage))
    return target, load_drafter(str(FOLDER / storage), target)


@cache
def decodes(storage):
    return json.loads((FOLDER / storage / "greedy_decode.json").read_text())


def texts_of(storage, domains="ab"):
    return [Text(it["prompt"], it["output_ids"][len(it["prompt"]) :], domains[i % 2], i) for i, it in enumerate(decodes(storage))]


def worst(made, expected):
    """The largest difference of all that is expected and no input."""
    assert set(expected) - set(INPUTS) == set(made)
    return max(float((made[name].double() - expected[name].double()).abs().max()) for name in made)


@pytest.mark.parametrize("form", ["short", "long"])
@pytest.mark.parametrize("storage", STORAGES)
def test_it_computes_what_deepseeks_code_computes(storage, form):
    expected = load_file(FOLDER / storage / f"forward_{form}.safetensors")
    assert worst(forward(*loaded(storage), expected), expected) < WITHIN


def test_the_drafter_check_compares_them_all():
    differences = compare(FOLDER / "released_dtypes", *loaded("released_dtypes"))
    assert all(one.holds for one in differences)
    assert len(differences) == 12 + 11 + 4


def test_stored_blocks_are_what_they_mean_bit_for_bit():
    blocks = load_file(FOLDER / "quant_blocks.safetensors")
    names = sorted({name.split(".")[0] for name in blocks})
    assert len(names) == 6
    for name in names:
        assert torch.equal(dense(blocks[f"{name}.weight"], blocks[f"{name}.scale"], torch.float32), blocks[f"{name}.dequantised"])
        raw = blocks[f"{name}.scale"].view(torch.uint8)  # as some repackagings have them
        assert torch.equal(dense(blocks[f"{name}.weight"], raw, torch.float32), blocks[f"{name}.dequantised"])


def serve(target, drafter, rule, wanted, **options):
    """Outputs of an engine of three slots, and each text's rounds."""
    engine = Engine(target, drafter, rule, slots=3, length=240, prefill_chunk=37, stop_at_eos=False, **options)
    done = engine.run([ServedRequest(i, it["prompt"], len(it["output_ids"]) - len(it["prompt"])) for i, it in enumerate(wanted)])
    rounds = [[] for _ in wanted]
    for part in (part for step in engine.steps for part in step.rounds):
        rounds[part.request].append(part)
    return [request.output for request in sorted(done, key=lambda request: request.request)], rounds


@pytest.mark.parametrize("storage", STORAGES)
def test_greedy_decodes_are_deepseeks(storage):
    """Slots, chunks, padded tiers; drafts, confidences and accepted counts of every round."""
    wanted = decodes(storage)
    said, rounds = serve(*loaded(storage), FixedLength(length=5), wanted, tiers=Tiers())
    for it, output, parts_ in zip(wanted, said, rounds, strict=True):
        assert output == it["output_ids"][len(it["prompt"]) :]
        for part, expected in zip(parts_, it["rounds"], strict=False):
            assert [part.anchor, *part.drafted] == expected["draft"]
            assert part.accepted == expected["accepted"]
            np.testing.assert_allclose(part.confidence, expected["confidence"], atol=2e-5)
        assert len(parts_) >= len(it["rounds"]) - 1


class Flat:
    """A round costs more with each token, so that a scheduler has something to choose."""

    def round_s(self, requests, context_tokens, gamma):
        return 1.0 + 0.12 * np.arange(requests * gamma + 1)


RULES = (FixedLength(length=2), Threshold(threshold=0.55), ConfidenceScheduled(mode="synchronous"), ConfidenceScheduled())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}-{getattr(rule, 'mode', '')}")
def test_other_rules_say_the_same(rule):
    """And have as much of each block accepted as they verify of what a whole one would have had accepted."""
    target, drafter = loaded("float32")
    said, rounds = serve(target, drafter, rule, decodes("float32"), costs=Flat())
    blocks = resident("float32", 0.0)
    lengths = []
    for text, (it, output, parts_) in enumerate(zip(decodes("float32"), said, rounds, strict=True)):
        assert output == it["output_ids"][len(it["prompt"]) :]
        at = 0
        for part in parts_:
            if at < blocks.length[text]:
                assert part.accepted == min(part.verified, blocks.accepted[blocks.first_row[text] + at])
            at += part.accepted + 1
            lengths.append(part.verified)
    assert isinstance(rule, FixedLength) or len(set(lengths)) > 2


def test_a_drafter_of_random_weights_changes_nothing():
    target, _ = loaded("float32")
    luck = torch.Generator().manual_seed(1)
    wild = load_drafter(str(FOLDER / "float32"), target)
    for name, weight in wild.named_parameters():
        if not name.startswith(("lm_head", "backbone.embed_tokens")):
            weight.data = torch.randn(weight.shape, generator=luck) * 0.3
    wanted = [decodes("float32")[i] for i in (0, 3)]
    said, rounds = serve(target, wild, FixedLength(length=5), wanted)
    assert said == [it["output_ids"][len(it["prompt"]) :] for it in wanted]
    assert np.mean([part.accepted for parts_ in rounds for part in parts_]) < 0.5


# what goes wrong with such a model


def taps_of_inputs(monkeypatch):
    monkeypatch.setattr(model.V4Target, "tap", lambda self, taps: setattr(self, "taps", tuple(tap - 1 for tap in taps)))


def taps_after_the_norm(monkeypatch):
    monkeypatch.setattr(model, "tap_of", lambda streams: parts.unit(streams.mean(dim=1), 1e-6))


def taps_of_one_stream(monkeypatch):
    monkeypatch.setattr(model, "tap_of", lambda streams: streams[:, 0])


def mixing_transposed(monkeypatch):
    right = layers.mixing
    monkeypatch.setattr(layers, "mixing", lambda *given: (*right(*given)[:2], right(*given)[2].transpose(1, 2)))


def a_causal_block(monkeypatch):
    right = model.V4Drafter.through

    def causal(self, stage, streams, batch):
        layout = batch.layout.flat
        flat = lambda ints, start, block=None: layout(ints, start)  # noqa: E731
        return right(self, stage, streams, replace(batch, layout=_Flat(batch.layout, flat)))

    monkeypatch.setattr(model.V4Drafter, "through", causal)


class _Flat:
    def __init__(self, layout, flat):
        self.layout, self.flat = layout, flat


def a_window_of_each_slot(monkeypatch):
    """By distance, as llama.cpp masks: slot j loses the j oldest keys of the context."""
    right = attention.Attention.attend

    def slid(self, x, query, seen, part, keys, *more):
        if seen.span > self.sizes.window:  # a block
            span, begin = seen.span, seen.flat.limits[part] - (seen.span - self.sizes.window)
            out = []
            for row in range(len(x)):
                offset = int(seen.flat.positions[part][row] - begin[row])
                out.append(
                    right(
                        self,
                        x[row : row + 1],
                        query[row : row + 1],
                        replace(seen, span=span - offset),
                        slice(part.start + row, part.start + row + 1),
                        keys,
                        *more,
                    )
                )
            return torch.cat(out)
        return right(self, x, query, seen, part, keys, *more)

    monkeypatch.setattr(attention.Attention, "attend", slid)


def confidence_after_the_norm(monkeypatch):
    right = model.V4Drafter.head_steps

    def normed(self, hidden, anchors, count):
        steps, head = right(self, hidden, anchors, count), self.confidence_head
        self.confidence_head = lambda states, tokens: head(self.backbone.norm(states), tokens)
        try:
            return (yield from steps)
        finally:
            self.confidence_head = head

    monkeypatch.setattr(model.V4Drafter, "head_steps", normed)
    monkeypatch.setattr(nn.Module, "__setattr__", _plain_setattr)


_setattr = nn.Module.__setattr__


def _plain_setattr(self, name, value):
    if name == "confidence_head" and not isinstance(value, nn.Module):
        self._modules.pop(name, None)
        self.__dict__[name] = value
    else:
        self.__dict__.pop(name, None)
        _setattr(self, name, value)


def no_top_k(monkeypatch):
    right = attention.Indexer.forward

    def all_of_them(self, *given):
        monkeypatch.setattr(self, "most", 10**6)
        return right(self, *given)

    monkeypatch.setattr(attention.Indexer, "forward", all_of_them)


def no_sink(monkeypatch):
    right = attention.Attention.attend

    def sinkless(self, *given):
        kept, self.attn_sink.data = self.attn_sink.data, torch.full_like(self.attn_sink.data, -1e9)
        try:
            return right(self, *given)
        finally:
            self.attn_sink.data = kept

    monkeypatch.setattr(attention.Attention, "attend", sinkless)


def no_rotation_back(monkeypatch):
    right = attention.rotated
    monkeypatch.setattr(attention, "rotated", lambda x, at, f, back=False: x if back else right(x, at, f))


def an_entry_turned_by_its_last_position(monkeypatch):
    right = attention.rotated
    monkeypatch.setattr(attention, "rotated", lambda x, at, f, back=False: right(x, at + (3 if x.dim() == 2 and len(x) < 80 else 0), f, back))


def no_overlap(monkeypatch):
    """Only the later window's half."""
    monkeypatch.setattr(attention.Compressor, "halves", lambda self, terms: terms[..., -self.ratio :, : self.width].tile(self.windows, 1))


def no_limit_of_the_experts(monkeypatch):
    right = layers.Expert.forward

    def unlimited(self, x):
        monkeypatch.setattr(self, "limit", 1e9)
        return right(self, x)

    monkeypatch.setattr(layers.Expert, "forward", unlimited)


def one_rotary_base(monkeypatch):
    right = attention.Attention.frequencies
    monkeypatch.setattr(attention.Attention, "frequencies", lambda self, device: torch.tensor(self.sizes.frequencies(False), device=device))
    assert right is not attention.Attention.frequencies


def no_norm_of_query_heads(monkeypatch):
    monkeypatch.setattr(attention, "unit", lambda x, eps: x)


def halves_paired(monkeypatch):
    def rotated(x, positions, frequencies, back=False):
        size = 2 * len(frequencies)
        order = torch.arange(size).view(2, -1).T.flatten()
        turned = parts.rotated(torch.cat([x[..., :-size], x[..., -size:][..., order]], dim=-1), positions, frequencies, back)
        return torch.cat([turned[..., :-size], turned[..., -size:][..., order.argsort()]], dim=-1)

    monkeypatch.setattr(attention, "rotated", rotated)


MISTAKES = [
    taps_of_inputs,
    taps_after_the_norm,
    taps_of_one_stream,
    mixing_transposed,
    a_causal_block,
    a_window_of_each_slot,
    confidence_after_the_norm,
    no_top_k,
    no_sink,
    no_rotation_back,
    an_entry_turned_by_its_last_position,
    no_overlap,
    no_limit_of_the_experts,
    one_rotary_base,
    no_norm_of_query_heads,
    halves_paired,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_seen(mistake, monkeypatch):
    expected = load_file(FOLDER / "float32" / "forward_long.safetensors")
    target, drafter = loaded("float32")
    with monkeypatch.context() as patch:
        mistake(patch)
        off = worst(forward(target, drafter, expected), expected)
    assert off > 10 * WITHIN
    target.tap(drafter.taps)


# one layer at a time


def stream(folder, texts, work, temperature=1.0, **options):
    return streamed.stream_blocks(
        folder, folder.name, texts, work, drafter="dspark", device="cpu", dtype="float32", temperature=temperature, seed=3, progress=QUIET, **options
    )


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in ("accepted", "confidence", "acceptance", "length")
    )


@cache
def resident(storage, temperature):
    return record_blocks(*loaded(storage), "dspark", texts_of(storage), temperature=temperature, seed=3, progress=QUIET, given=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("storage", STORAGES)
def test_streamed_blocks_are_those_of_a_target_in_memory(storage, temperature, tmp_path):
    blocks = stream(FOLDER / storage, texts_of(storage), tmp_path, temperature)
    assert same(blocks, resident(storage, temperature))
    assert blocks.source == resident(storage, temperature).source
    assert np.unique(blocks.accepted).size > 3


def test_a_walk_along_given_texts_is_the_greedy_decode():
    blocks = resident("released_dtypes", 0.0)
    for first, length, it in zip(blocks.first_row, blocks.length, decodes("released_dtypes"), strict=True):
        row, accepted = first, []
        while row < first + length:
            accepted.append(int(blocks.accepted[row]))
            row += accepted[-1] + 1
        assert accepted == [one["accepted"] for one in it["rounds"]][: len(accepted)]


def test_it_holds_less_than_two_layers(tmp_path, monkeypatch):
    """Weights of layers and stages that are alive at once, counted as each is filled."""
    most, right, made = [0], model.fill_layer, WeakSet()

    def counted(layer, *given):
        right(layer, *given)
        made.add(layer)
        alive = list(made)
        most[0] = max(most[0], sum(tensor.nbytes for it in alive for tensor in (*it.parameters(), *it.buffers())))

    monkeypatch.setattr(streamed, "fill_layer", counted)
    stream(FOLDER / "released_dtypes", texts_of("released_dtypes")[:2], tmp_path)
    target, _ = loaded("released_dtypes")
    largest = max(sum(tensor.nbytes for tensor in (*layer.parameters(), *layer.buffers())) for layer in target.model.layers)
    assert 0 < most[0] < 2 * largest


def test_a_kill_at_every_layer_loses_that_layer_alone(tmp_path, monkeypatch):
    texts = texts_of("released_dtypes")[:3]
    whole = stream(FOLDER / "released_dtypes", texts, tmp_path / "whole")
    passed: list[str] = []
    for kind in ("_layer", "_stage"):
        right = getattr(streamed.Streamed, kind)
        monkeypatch.setattr(
            streamed.Streamed, kind, lambda self, number, right=right, kind=kind: (passed.append(f"{kind}{number}"), right(self, number))
        )
    for killed in range(10):
        started = 1 if killed == 0 else 2  # the one that was left over, and one more
        if (child := os.fork()) == 0:
            passed.clear()
            write = streamed.Streamed._write

            def mortal(file, rows, write=write, started=started):
                write(file, rows)
                if len(passed) == started:
                    os.kill(os.getpid(), signal.SIGKILL)

            monkeypatch.setattr(streamed.Streamed, "_write", staticmethod(mortal))
            stream(FOLDER / "released_dtypes", texts, tmp_path / "killed")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL or killed >= 9
    passed.clear()
    assert same(stream(FOLDER / "released_dtypes", texts, tmp_path / "killed"), whole)
    assert len(passed) <= 2


def test_an_unfinished_measurement_is_of_the_same_texts(tmp_path):
    stream(FOLDER / "released_dtypes", texts_of("released_dtypes")[:2], tmp_path)
    with pytest.raises(DsimError, match="holds an unfinished measurement with texts"):
        stream(FOLDER / "released_dtypes", texts_of("released_dtypes")[:3], tmp_path)


def test_memory_decides_how_many_tokens_pass_at_once(tmp_path):
    texts = texts_of("released_dtypes")
    with pytest.raises(DsimError, match="these texts need up to"):
        stream(FOLDER / "released_dtypes", texts, tmp_path / "none", memory_bytes=1e5)
    assert not (tmp_path / "none").exists()
    checkpoint = loaded("released_dtypes")[0].checkpoint
    whole = needs(checkpoint, served(texts, frozenset([1]), 96, 4), "float32", 2048, 128, False)
    stream(FOLDER / "released_dtypes", texts, tmp_path / "few", memory_bytes=0.8 * whole.memory_bytes)
    assert json.loads((tmp_path / "few" / streamed.BEGUN).read_text())["tokens_at_once"] < 2048


def test_layers_as_plain_numbers_give_the_same(tmp_path):
    """Which is what more memory is for."""
    texts = texts_of("released_dtypes")
    assert same(stream(FOLDER / "released_dtypes", texts, tmp_path, memory_bytes=1e9), resident("released_dtypes", 1.0))


def test_other_weights_of_the_same_shapes_are_not_gone_on_with(tmp_path):
    texts, other = texts_of("float32")[:2], tmp_path / "float32"
    stream(FOLDER / "float32", texts, tmp_path / "work")
    shutil.copytree(FOLDER / "float32", other)
    tensors = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    save_file(tensors | {"norm.weight": tensors["norm.weight"] * 1.01}, other / "model.safetensors")
    with pytest.raises(DsimError, match="holds an unfinished measurement with weights"):
        stream(other, texts, tmp_path / "work")


def test_a_disk_that_is_too_small_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(DsimError, match="GB are free"):
        stream(FOLDER / "float32", texts_of("float32")[:2], tmp_path / "work")


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(file, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streamed.Streamed, "_write", staticmethod(full))
    with pytest.raises(DsimError, match="No space left"):
        stream(FOLDER / "released_dtypes", texts_of("released_dtypes")[:2], tmp_path)


# other shapes


SHAPES = {
    "hidden_size": 96, "num_hidden_layers": 5, "num_attention_heads": 6, "head_dim": 48, "qk_rope_head_dim": 12, "q_lora_rank": 40, "o_groups": 3,
    "o_lora_rank": 24, "compress_ratios": [128, 4, 0, 4, 4, 0, 0], "sliding_window": 11, "index_n_heads": 5, "index_head_dim": 24, "index_topk": 7,
    "n_routed_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "num_hash_layers": 2, "hc_mult": 3, "vocab_size": 61,
    "dspark_block_size": 4, "dspark_noise_token_id": 60, "dspark_target_layer_ids": [0, 4], "dspark_markov_rank": 10, "hc_sinkhorn_iters": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A checkpoint of other dimensions, two stages, random weights."""
    folder, luck = tmp_path_factory.mktemp("other-v4"), torch.Generator().manual_seed(4)
    config = json.loads((FOLDER / "float32" / "config.json").read_text()) | SHAPES
    (folder / "config.json").write_text(json.dumps(config))
    tensors: dict[str, Tensor] = {}
    for it in inventory(read_v4(folder), 2):
        if it.kind == "id":
            tensors[it.name] = torch.stack([torch.randperm(6, generator=luck)[:3] for _ in range(it.shape[0])])
        else:
            near_one = it.name.endswith("norm.weight")
            tensors[it.name] = (
                torch.randn(it.shape, generator=luck) * (0.1 if near_one else it.shape[-1] ** -0.5 if len(it.shape) > 1 else 0.5) + near_one
            )
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_other_shapes_decode_as_without_a_drafter_and_stream_as_in_memory(other, tmp_path):
    """Nothing hangs on the dimensions of the golden checkpoint."""
    target = load_target(str(other))
    drafter = load_drafter(str(other), target)
    assert (drafter.gamma, len(drafter.backbone.layers), drafter.taps, target.layers) == (4, 2, (0, 4), 5)
    luck = np.random.default_rng(5)
    asked = [{"prompt": luck.integers(0, 60, n).tolist(), "output_ids": [0] * (n + 24)} for n in (3, 29, 131)]
    plain, _ = serve(target, None, NoSpeculation(), asked)
    drafted, _ = serve(target, drafter, FixedLength(length=4), asked, tiers=Tiers())
    assert drafted == plain
    texts = [Text(it["prompt"], output) for it, output in zip(asked, plain, strict=True)]
    blocks = record_blocks(target, drafter, "dspark", texts, temperature=1.0, seed=3, progress=QUIET, given=True)
    assert same(stream(other, texts, tmp_path), blocks)


# the command


def run(*words):
    return CliRunner().invoke(app, ["profile", "measure", *map(str, words)])


def refusal(*words):
    ran = run(*words)
    assert isinstance(ran.exception, DsimError), ran.output
    assert "\n" not in ran.exception.line()
    return ran.exception.line()


def test_the_command_makes_an_acceptance_that_a_scenario_takes(tmp_path):
    file, out = tmp_path / "texts.jsonl", tmp_path / "v4-acceptance"
    lines = [{"prompt": text.prompt, "completion": text.output, "domain": text.domain} for text in texts_of("released_dtypes")]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run(
        "--target", FOLDER / "released_dtypes", "--texts", file, "--out", out, "--temperature", 0, "--seed", 3, "--target-name", "DeepSeek-V4-Flash"
    )
    assert result.exit_code == 0, result.output
    made = load_acceptance(out)
    assert (made.provenance, made.gamma, set(made.domains)) == ("measured", 5, {"a", "b"})
    assert same(made.recorded(), resident("released_dtypes", 0.0))
    assert not (out / "work").exists()
    assert "already holds an acceptance" in refusal("--target", FOLDER / "released_dtypes", "--texts", file, "--out", out)


def test_bad_requests_are_one_line(tmp_path):
    v4, file, ids = FOLDER / "released_dtypes", tmp_path / "texts.jsonl", tmp_path / "ids.jsonl"
    ids.write_text(json.dumps({"prompt": [1], "completion": [2] * 9}) + "\n")
    file.write_text(json.dumps({"prompt": "Say hello.", "completion": "Hello.", "finish_reason": "stop"}) + "\n")
    for words, said in (
        ((), "generates no texts here"),
        (("--texts", file), "has no tokenizer"),
        (("--texts", file, "--memory", "much"), "expected an amount such as 24GB"),
        (("--texts", file, "--dtype", "float16"), "unknown dtype 'float16'"),
        (("--texts", ids, "--target-name", " x"), "--target-name"),
        (("--texts", file, "--draft", GOLDEN / "eagle3"), "drafts with the drafter in its checkpoint"),
    ):
        assert said in refusal("--target", v4, "--out", tmp_path / "out", *words)


def test_a_drafter_of_another_checkpoint_is_refused(target):
    with pytest.raises(DsimError, match="give the drafter of this target"):
        load_drafter(str(FOLDER / "float32"), target)
    with pytest.raises(DsimError, match="of another checkpoint"):
        load_drafter(str(FOLDER / "released_dtypes"), loaded("float32")[0])
