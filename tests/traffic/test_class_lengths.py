"""Lengths of classes of requests, by the number of the request alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.traffic.workload import Workload

USUAL = {"prompt_tokens": {"kind": "uniform", "min_tokens": 10, "max_tokens": 40}, "output_tokens": {"kind": "fixed", "tokens": 7}}
LONG = {"prompt_tokens": {"kind": "fixed", "tokens": 900}, "output_tokens": {"kind": "uniform", "min_tokens": 50, "max_tokens": 60}}
SLA = {"tpot_s": 1}


def workload(arrivals: str, usual: dict[str, Any], **classes: dict[str, Any]) -> Workload:
    content = {name: one | {"sla": SLA} for name, one in classes.items()}
    return Workload.model_validate({"arrivals": {"kind": arrivals}, "classes": content} | usual)


def test_a_class_has_lengths_of_its_own_and_others_keep_theirs() -> None:
    of = workload("poisson", USUAL, chat={"share": 3}, batch={"share": 1} | LONG)
    alike = workload("poisson", USUAL, chat={"share": 3}, batch={"share": 1})
    specs, usual = (one.open_loop(100.0, 20.0, 1, 0) for one in (of, alike))
    senders = of.senders(1, 0)
    assert senders is not None
    batch = senders.group(specs.request) == 0  # by name
    assert 0.2 < batch.mean() < 0.3
    assert (specs.prompt_tokens[batch] == 900).all()
    assert set(specs.output_tokens[batch]) == set(range(50, 61))
    for name in ("prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(specs, name)[~batch], getattr(usual, name)[~batch])
    assert of.prompts is not None
    assert of.prompts.expected_tokens() == pytest.approx(0.75 * 25 + 0.25 * 900)
    assert of.outputs is not None
    assert of.outputs.at(np.array([0.0, 0.99999])).tolist() == [7, 60]


def test_users_of_a_closed_loop_send_by_the_number_of_the_request() -> None:
    of = workload("closed_loop", {}, chat={"share": 1} | USUAL, batch={"share": 1} | LONG)
    source, senders = of.closed_loop(5, 3, 2), of.senders(3, 2)
    assert senders is not None
    specs = [source.spec(user, turn, 0.0) for user in range(5) for turn in range(20)]
    places = senders.group(np.array([spec.index for spec in specs]))
    assert {int(place): {spec.prompt_tokens > 40 for spec, at in zip(specs, places, strict=True) if at == place} for place in (0, 1)} == {
        0: {True},
        1: {False},
    }


@pytest.mark.parametrize("content, wrong", [
    ({"arrivals": {"kind": "poisson"}, "classes": {"chat": {"share": 1, "sla": SLA} | USUAL, "batch": {"share": 1, "sla": SLA}}},
     "missing: prompt_tokens, output_tokens"),
    ({"sessions": {"arrivals": {"kind": "poisson"}, "turns": {"kind": "fixed", "count": 2}, "new_tokens": USUAL["prompt_tokens"],
                   "output_tokens": USUAL["output_tokens"]}, "classes": {"chat": {"share": 1, "sla": SLA} | USUAL}},
     "sessions have lengths of requests already"),
])  # fmt: skip
def test_lengths_that_are_missing_or_there_already(content: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        Workload.model_validate(content)
