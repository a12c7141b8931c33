"""The golden target and drafters, loaded once; everything in this folder needs torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

GOLDEN = Path(__file__).parents[1] / "golden"
TRAINED = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash", "eagle3")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.torch)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def target():
    from real_runner.target import load_target

    return load_target(str(GOLDEN / "target"))


@pytest.fixture(scope="session")
def drafters(target):
    from real_runner.drafters.loading import load_drafter

    return {name: load_drafter(str(GOLDEN / name), target) for name in TRAINED}


@pytest.fixture(scope="session")
def greedy():
    return {name: json.loads((GOLDEN / name / "greedy_decode.json").read_text()) for name in TRAINED}


@pytest.fixture(scope="session")
def plain(target):
    """Greedy continuation by transformers' own attention, no cache of ours: what every decode must equal."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "target").eval()

    @torch.no_grad()
    def decode(prompt: list[int], tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return out[0, len(prompt) :].tolist()

    decode.model = model
    return decode
