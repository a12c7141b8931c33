"""What another planner says of the board: a question is a file, an answer rows beside what was published, a refusal a row with its message."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engines.others import COLUMNS, GAIN, LOADS, PRO, SPEED, THROUGHPUT, Refused, Rows, asker, message, pro_sweep, static_estimate


def planner(config: dict[str, Any]) -> dict[str, Any]:
    """Speeds that fall with the users and rise with what is said to be accepted; DSpark and more than five tokens are refused."""
    engine, users = config["engine"], config["traffic"]["load"]["concurrency"]
    if "speculation" in engine or engine.get("nextn", 0) > 5:
        raise Refused("1..5 draft tokens")
    speed = 1000 / (10 + users) * (1 + engine.get("nextn_accepted", 0.0))
    return {"mean_tpot_ms": 1e3 / speed, "output_throughput_tok_s": speed * users}


def test_rows_of_a_sweep() -> None:
    to = Rows(planner, "1.0")
    pro_sweep(to)
    assert {key for row in to.rows for key in row} <= set(COLUMNS)
    cells = {(row["policy"], row["load"], row["metric"]): row for row in to.rows if "metric" in row}
    assert len(cells) == 6 * 2 + 3 * 6 * 3
    assert all(f'"concurrency": {row["load"]}' in row["how"] and row["condition"] == PRO for row in cells.values())
    assert [cells["none", str(load), SPEED]["published"] for load in LOADS[:2]] == ["101", "71.8"]
    three = cells["fixed 3", "16", GAIN]
    assert float(three["value"]) == pytest.approx(1 + 2.01, rel=1e-5)  # accepted length 3.01 in the published table
    assert float(three["published"]) == pytest.approx(1906 / 1124, rel=1e-4)
    assert float(cells["fixed 3", "16", THROUGHPUT]["published"]) == pytest.approx(1906 / 8, rel=1e-4)
    refused = [(row["policy"], row["load"], row["message"]) for row in to.rows if "message" in row]
    assert refused == [(f"fixed {k}", "", "1..5 draft tokens") for k in (1, 3, 5, 6, 6, 7, 7)] + [("adaptive", "", "1..5 draft tokens")]


def test_the_estimator_before_it_is_taken_over() -> None:
    rows = static_estimate()
    assert [row["metric"] for row in rows] == ["TPOT: median error", "TTFT: median error"]
    assert all(0 < float(row["value"]) < 1 and row["version"] == "0.12.0" for row in rows)


def test_a_command_answers_or_complains(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text(f"""#!{sys.executable}
import json, sys
config = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
if config["good"]:
    print(json.dumps({{"mean_tpot_ms": 4.0}}))
else:
    print("tool: execution process exited with status 1", "aisimulate predict failed: ValueError: no data for cpu", sep="\\n", file=sys.stderr)
    sys.exit(1)
""")
    tool.chmod(0o755)
    assert asker(tool)({"good": True}) == {"mean_tpot_ms": 4.0}
    with pytest.raises(Refused, match=r"^ValueError: no data for cpu$"):
        asker(tool)({"good": False})


def test_a_message_is_one_line_without_this_machine() -> None:
    said = """usage: aisimulate [-h] {predict,recommend} ...
aisimulate: error: /tmp/tmpabc/question.yaml: 1 validation error
engine.backend
  Input should be 'vllm' or 'sglang' [type=literal_error, input_value='llama.cpp', input_type=str]
    For further information visit https://errors.pydantic.dev/"""
    assert message(said) == "1 validation error engine.backend Input should be 'vllm' or 'sglang'"
    assert (
        message("no data in /home/me/lib/python3.11/site-packages/tool/systems/cpu. Prediction will not fall back") == "no data in tool/systems/cpu"
    )
    assert (
        message("kind\n  Input should be 'ngram' [type=literal_error]\n  Value error, 1..5 draft tokens [type=value_error, input_value=9]")
        == "1..5 draft tokens"
    )
