"""/metrics of vLLM, llama.cpp and SGLang: real files, two scrapes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.errors import DsimError
from simulator.measurements.formats.reading import read_document
from simulator.measurements.formats.scrapes import counters_in, counters_of, read_counters

REAL = Path(__file__).parent / "real"
Put = Callable[..., Path]


def test_llama_cpp_counts_rounds_that_drafted_and_no_requests(put: Put) -> None:
    counted = read_counters(REAL / "llama-ngram-simple.txt")
    assert (counted.engine, counted.drafts, counted.draft_tokens, counted.accepted_tokens, counted.slots) == ("llamacpp", 12, 271, 24, 48)
    assert counted.survival[:7] == pytest.approx([5 / 12] * 4 + [3 / 12, 1 / 12, 0])
    assert counted.rounds == 2966 - 24  # first tokens among them
    assert counted.accepted_length == pytest.approx(1 + 24 / 2942)
    assert counted.cut
    assert counted.remarks("f")[-1].startswith("f: 59% of the prompts' tokens came from a cache")
    plain = counters_in((REAL / "llama-none.txt").read_text(), "x")
    assert plain is not None
    assert (plain.drafts, plain.accepted_length) == (0, 1)
    with pytest.raises(DsimError, match="llamacpp:spec_decode_num_drafts: counts no drafted round"):
        read_counters(REAL / "llama-none.txt")
    assert read_counters(REAL / "llama-ngram-simple.txt", REAL / "llama-none.txt").drafts == 12  # positions appear with the first draft


SGLANG = """sglang:generation_tokens_total{model_name="m",tp_rank="0"} 26700
sglang:prompt_tokens_total{model_name="m",tp_rank="0"} 9000
sglang:num_requests_total{model_name="m",tp_rank="0"} 200
sglang:spec_verify_calls_total{model_name="m",tp_rank="0"} 10000
sglang:spec_accept_length{model_name="m",tp_rank="0"} 2.71
"""


def test_sglang_counts_verify_calls_of_finished_requests(put: Put) -> None:
    counted = read_counters(put("m.txt", SGLANG))
    assert (counted.engine, counted.rounds, counted.proposing, counted.accepted_length) == ("sglang", 10_000, 1, 2.65)
    assert counted.budget is None
    assert counted.survival == []
    with pytest.raises(DsimError, match="spec_verify_calls_total: is missing, and spec_accept_length is a mean of the last steps alone"):
        read_counters(put("old.txt", SGLANG.replace("spec_verify_calls", "spec_other")))
    plain = counters_in(SGLANG.replace("spec_verify_calls", "spec_other").replace("2.71", "0.0"), "x")  # the gauge is there without speculation, too
    assert plain is not None
    assert (plain.drafts, plain.accepted_tokens, plain.accepted_length) == (0, 0, 1)
    with pytest.raises(DsimError, match="expected at most 26,500 calls"):
        read_counters(put("wrong.txt", SGLANG.replace(" 10000", " 26501")))


def test_a_model_is_chosen_where_a_scrape_has_several(put: Put) -> None:
    lines = []
    for model, counts in (("big", (800, 550, 300)), ("small", (400, 150, 50))):
        for name, value in (("drafts", 1000), ("draft_tokens", 3000), ("accepted_tokens", sum(counts))):
            lines.append(f'vllm:spec_decode_num_{name}_total{{engine="0",model_name="{model}"}} {value}')
        lines += [f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{model_name="{model}",position="{k}"}} {n}' for k, n in enumerate(counts)]
    both = put("both.txt", "\n".join(lines))
    with pytest.raises(DsimError, match=r"both\.txt: model_name: has counters of 2 models, 'big, small'; choose one with --model"):
        read_counters(both)
    assert read_counters(both, model="small").survival == [0.4, 0.15, 0.05]
    assert read_counters(both, model="big").survival == [0.8, 0.55, 0.3]
    with pytest.raises(DsimError, match="--model: expected one of 'big, small', got 'other'"):
        read_counters(both, model="other")


def test_a_gauge_in_an_export_of_aiperf_says_that_the_server_speculates(put: Put) -> None:
    def export(mean: float) -> Path:
        names = {"sglang:generation_tokens": {"total": 26700}, "sglang:num_requests": {"total": 200}, "sglang:spec_accept_length": {"avg": mean}}
        return put("export.json", {"metrics_phase": "profiling", "metrics": {name: {"series": [{"stats": stats}]} for name, stats in names.items()}})

    with pytest.raises(DsimError, match="spec_verify_calls_total: is missing"):
        counters_of(read_document(export(2.7), "metrics"))
    assert counters_of(read_document(export(0.0), "metrics")) is not None


@pytest.mark.parametrize(
    ("after", "before", "problem"),
    [
        ("vllm-ngram3-c4-before.txt", "vllm-ngram3-c4-after.txt", "vllm:spec_decode_num_drafts: fell from 350 to 196 between the scrapes"),
        ("vllm-draft3-c4-before.txt", "vllm-ngram3-c4-before.txt", "fell from"),
        ("llama-ngram-simple.txt", "vllm-ngram3-c4-before.txt", "is of engine 'llamacpp', and the earlier scrape of 'vllm'; scrape one server"),
        ("vllm-ngram3-c4.json", None, "expected a scrape of /metrics, got JSON"),
        ("guidellm-c4.json", None, "expected a scrape of /metrics, got JSON"),
        ("vllm-none-b-c4-after.txt", None, "vllm:spec_decode_num_drafts: is missing; scrape /metrics of a server that speculates"),
        ("vllm-ngram3-c4-after.txt", "vllm-none-b-c4-after.txt", "expected 0 positions as in the earlier scrape, got 3"),
    ],
)
def test_scrapes_of_other_servers_are_refused_in_a_line(after: str, before: str | None, problem: str) -> None:
    with pytest.raises(DsimError) as caught:
        read_counters(REAL / after, REAL / before if before else None)
    assert problem in caught.value.line()
    assert len(caught.value.line()) < 300 + 2 * len(str(REAL))


def test_scrapes_of_two_models_are_not_taken_off_one_another(put: Put) -> None:
    early = (REAL / "vllm-ngram3-c4-before.txt").read_text()
    with pytest.raises(DsimError, match="is of model 'smollm2', and the earlier scrape of 'other'"):
        read_counters(REAL / "vllm-ngram3-c4-after.txt", put("b.txt", early.replace('"smollm2"', '"other"')))
    both = put("both.txt", early + (REAL / "llama-none.txt").read_text())
    with pytest.raises(DsimError, match="has counters of llamacpp and vllm; scrape one server"):
        read_counters(both)


def test_counters_that_aiperf_kept_are_read_like_a_scrape() -> None:
    counted = counters_of(read_document(REAL / "aiperf" / "server_metrics_export.json", "metrics"))
    assert counted is not None
    assert (counted.generated, counted.answers, counted.rounds, counted.prompt_tokens, counted.model) == (2304, 36, 2268, 4608, "smollm2")
    with pytest.raises(DsimError, match="vllm:spec_decode_num_drafts: is missing"):
        read_counters(REAL / "aiperf" / "server_metrics_export.json")
