"""The MTP module of the DeepSeek kind, against a naive computation over the whole text without any cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm, Qwen3RotaryEmbedding

from real_runner.drafters.loading import load_drafter
from real_runner.engine import Engine
from real_runner.records import ServedRequest
from simulator.errors import CheckpointError
from simulator.policies.verification import ByBatch, FixedLength, NoSpeculation, Uniform

GOLDEN = Path(__file__).parents[1] / "golden"
PROMPTS = [[3, 16, 18, 17], [10, 12], [27, 7, 16, 3, 16, 18, 17, 13]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A target checkpoint that carries its module as an extra layer 6, as DeepSeek's do; random, so hardly ever right."""
    made = tmp_path_factory.mktemp("mtp")
    config = json.loads((GOLDEN / "target" / "config.json").read_text()) | {"num_nextn_predict_layers": 1, "draft_length": 2}
    tensors = load_file(GOLDEN / "target" / "model.safetensors")
    luck = torch.Generator().manual_seed(4)
    extra = {name.replace("layers.0.", "layers.6."): t.clone() for name, t in tensors.items() if ".layers.0." in name}
    for name in ("enorm", "hnorm", "shared_head.norm"):
        extra[f"model.layers.6.{name}.weight"] = 1 + 0.1 * torch.randn(64, generator=luck)
    extra["model.layers.6.eh_proj.weight"] = torch.randn(64, 128, generator=luck) * 0.1
    (made / "config.json").write_text(json.dumps(config))
    save_file(tensors | extra, made / "model.safetensors")
    return made


class Naive:
    """h'_i = Layer(W [enorm(e_{i+1}); hnorm(h_i)]) over the whole text at positions i; the token after i+1 is read off the head of norm(h')."""

    def __init__(self, folder, model):
        tensors = load_file(folder / "model.safetensors")
        config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
        self.model, self.eh = model, tensors["model.layers.6.eh_proj.weight"]
        self.layer, self.rotary = Qwen3DecoderLayer(config, 0), Qwen3RotaryEmbedding(config)
        own = {k.removeprefix("model.layers.6."): v for k, v in tensors.items() if k.startswith("model.layers.6.")}
        self.layer.load_state_dict({k: v for k, v in own.items() if k in self.layer.state_dict()})
        self.norms = {}
        for name in ("enorm", "hnorm", "shared_head.norm"):
            self.norms[name] = Qwen3RMSNorm(64, eps=config.rms_norm_eps)
            self.norms[name].weight.data = own[f"{name}.weight"]

    @torch.no_grad()
    def draft(self, text, tokens):
        """Greedy tokens drafted when the last of `text` is the anchor."""
        hidden = self.model.model(torch.tensor([text[:-1]])).last_hidden_state
        ids, drafted = list(text[1:]), []
        for _ in range(tokens):
            embedded = self.model.model.embed_tokens(torch.tensor([ids]))
            joint = torch.cat([self.norms["enorm"](embedded), self.norms["hnorm"](hidden)], dim=-1) @ self.eh.T
            length = joint.shape[1]
            mask = torch.full((1, 1, length, length), float("-inf")).triu(1)
            out = self.layer(joint, attention_mask=mask, position_embeddings=self.rotary(joint, torch.arange(length)[None]))
            drafted.append(int(self.model.lm_head(self.norms["shared_head.norm"](out[:, -1:])).argmax()))
            ids.append(drafted[-1])
            hidden = torch.cat([hidden, out[:, -1:]], dim=1)
        return drafted


def test_drafts_are_those_of_the_naive_computation(folder, target, plain):
    drafter = load_drafter(str(folder), target)
    assert (drafter.spec.family, drafter.gamma) == ("mtp", 2)
    naive = Naive(folder, plain.model)
    engine = Engine(target, drafter, FixedLength(length=2), slots=3, length=64, stop_at_eos=False)
    done = {r.request: r for r in engine.run([ServedRequest(i, p, 16) for i, p in enumerate(PROMPTS)])}
    seen = 0
    for i, prompt in enumerate(PROMPTS):
        assert done[i].output == plain(prompt, 16)
        text, at = prompt + done[i].output, len(prompt) + 1
        for part in (p for step in engine.steps for p in step.rounds if p.request == i):
            assert part.anchor == text[at - 1]
            assert part.drafted == naive.draft(text[:at], 2)
            at += part.accepted + 1
            seen += 1
    assert seen > 20


def test_mtp_1_is_length_one(folder, target):
    drafter = load_drafter(str(folder), target)
    engine = Engine(target, drafter, FixedLength(length=1), slots=3, length=64, stop_at_eos=False)
    engine.run([ServedRequest(0, PROMPTS[0], 4)])
    assert engine.gamma == 1
    assert all(len(part.drafted) == 1 for step in engine.steps for part in step.rounds)


class Flat:
    def round_s(self, requests, context_tokens, gamma):
        return 1.0 + np.arange(requests * gamma + 1) / 16


@pytest.mark.parametrize(
    "policy", [NoSpeculation(), FixedLength(length=2), ByBatch(table=[(1, 2, 2), (3, 8, 1)]), Uniform(lag=1)], ids=lambda p: p.kind
)
@pytest.mark.parametrize("slots", [1, 3])
def test_greedy_output_is_the_targets_own_under_every_policy_that_needs_no_head(policy, slots, folder, target, plain):
    drafter = load_drafter(str(folder), target)
    engine = Engine(target, drafter, policy, slots=slots, length=64, costs=Flat(), survival=[0.7, 0.4], stop_at_eos=False)
    done = {r.request: r.output for r in engine.run([ServedRequest(i, p, 14 + i) for i, p in enumerate(PROMPTS)])}
    assert done == {i: plain(p, 14 + i) for i, p in enumerate(PROMPTS)}


def test_a_module_of_latent_attention_is_refused(folder, target, tmp_path):
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "deepseek_v3", "kv_lora_rank": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unsupported draft backbone 'deepseek_v3'"):
        load_drafter(str(tmp_path), target)
