"""Files as engines and load generators write them, made here to their documented form."""

from __future__ import annotations

from typing import Any

Content = dict[str, Any]

SAMPLED = {"sample_batch_tokens": [8, 16, 32, 64], "sample_steps_per_sec": [100.0, 95.0, 80.0, 50.0], "max_batch_tokens": 64}
ADDITIVE = {
    "bias_seconds": 0.008,
    "bs_probes": [1, 4, 16],
    "alpha_seconds": [0.0, 0.001, 0.004],
    "m_probes": [1, 8, 64, 128],
    "theta_seconds": [0.0, 0.0005, 0.002, 0.007],
}
STS = {
    "temperatures": [1.2, 1.5, 1.7],
    "dataset": "~/sts/shard.*.pt",
    "num_samples": 20000,
    "ece_before": [0.05, 0.08, 0.06],
    "ece_after": [0.02] * 3,
}
CURVES = {
    "draft_curve": [[1, 0.9], [8, 1.1], [32, 1.6]],
    "verify_curve": [[1, 5.0], [8, 5.4], [16, 5.3], [64, 7.9], [128, 40.0], [256, 52.0]],
    "cudagraph_limit": 64,
}
METRICS = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 600.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 400.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="m"} 1.795e+09
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 1800.0
vllm:spec_decode_num_draft_tokens_total{engine="1",model_name="m"} 1200.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 900.0
vllm:spec_decode_num_accepted_tokens_total{engine="1",model_name="m"} 600.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 480.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 300.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="2"} 120.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="0"} 320.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="1"} 200.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="2"} 80.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1560.0
vllm:generation_tokens_total{engine="1",model_name="m"} 1040.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 60.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="m"} 40.0
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 600.0
vllm:inter_token_latency_seconds_count{engine="1",model_name="m"} 400.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
"""


def bench(users: int, step_s: float) -> Content:
    """A result of `vllm bench serve --save-result` at MTP-1: 1.8 tokens a step of `step_s`, answers of ten tokens to prompts of one."""
    return {
        "date": "20261101-120000", "endpoint_type": "openai-chat", "backend": "openai-chat", "label": None, "model_id": "m", "tokenizer_id": "m",
        "num_prompts": 200, "request_rate": "inf", "burstiness": 1.0, "max_concurrency": users, "completed": 200, "failed": 0,
        "duration": 1000 * step_s / users,
        "total_input_tokens": 200, "total_output_tokens": 2000, "request_throughput": 3.3, "request_goodput": None,
        "output_throughput": users * 1.8 / step_s * 10 / 9, "total_token_throughput": 4000.0,
        "mean_ttft_ms": step_s * 1e3, "median_ttft_ms": step_s * 1e3,
        "mean_tpot_ms": step_s / 1.8 * 1e3, "median_tpot_ms": step_s / 1.8 * 1e3, "spec_decode_acceptance_rate": 80.0,
        "spec_decode_acceptance_length": 1.8, "spec_decode_num_drafts": 1000, "spec_decode_draft_tokens": 1000, "spec_decode_accepted_tokens": 800,
        "spec_decode_per_position_acceptance_rates": [0.8],
    }  # fmt: skip


def aiperf(users: int, step_s: float) -> Content:
    """A profile_export_aiperf.json without speculation."""
    return {
        "schema_version": "1.5", "aiperf_version": "0.13.0", "benchmark_id": "b", "was_cancelled": False, "error_summary": [],
        "run_info": {"variation_values": {"phases.profiling.concurrency": users}},
        "time_to_first_token": {"unit": "ms", "avg": 90.0, "min": 50.0, "max": 200.0, "p50": 80.0, "std": 9.0, "count": 200, "sum": 18000.0},
        "inter_token_latency": {"unit": "ms", "avg": step_s * 1e3, "p50": step_s * 1e3, "count": 200},
        "output_token_throughput_per_user": {"unit": "tokens/sec/user", "avg": 1 / step_s, "p50": 1 / step_s, "count": 200},
        "output_token_throughput": {"unit": "tokens/sec", "avg": users / step_s},
        "request_count": {"unit": "requests", "avg": 200.0}, "input_sequence_length": {"unit": "tokens", "avg": 500.0, "std": 0.0},
        "input_config": {"models": {"items": [{"name": "m"}]}, "phases": [{"kind": "profiling", "type": "concurrency", "concurrency": users}]},
    }  # fmt: skip


def guidellm(loads: list[tuple[int, float]]) -> Content:
    """A benchmarks.json with a benchmark for each (users, step seconds), without speculation."""

    def told(mean: float) -> Content:
        shares = {
            "mean": mean,
            "median": mean,
            "mode": mean,
            "variance": 0.0,
            "std_dev": 0.0,
            "min": mean,
            "max": mean,
            "count": 50,
            "total_sum": 50 * mean,
        }
        return {status: shares | {"percentiles": {"p50": mean}} for status in ("successful", "incomplete", "errored", "total")}

    def one(users: int, step_s: float) -> Content:
        values = {"inter_token_latency_ms": step_s * 1e3, "output_tokens_per_second": users / step_s, "time_to_first_token_ms": 80.0}
        values |= {"request_concurrency": float(users), "time_per_output_token_ms": step_s * 1e3 + 2}
        metrics = {name: told(value) for name, value in values.items()}
        config = {"strategy": {"type_": "concurrent", "streams": users}, "backend": {"model": "m"}}
        return {"type_": "generative_benchmark", "config": config, "duration": 60.0, "metrics": metrics}

    return {"metadata": {"version": 1, "guidellm_version": "0.5.0"}, "args": {}, "benchmarks": [one(*load) for load in loads]}


def dump(gamma: int = 3, mode: str = "static", confidences: bool = True) -> Content:
    """dspark_info_record of /server_info: two requests of which one takes two, none and three drafted tokens, the other one."""

    def request(rid: str, prefix: int, correct: int) -> Content:
        told = {"req_pool_index": 0, "prefix_len": prefix, "verify_len": gamma + 1, "acc_len": correct + 1, "correct_drafts": correct, "cap_trim": 0}
        told |= {"bonus_token": 5, "draft_tokens": [1] * (gamma + 1), "rid": rid}
        return told | ({"confidence": [0.9, 0.8, 1.0][:gamma], "survival": [0.9, 0.72, 0.72][:gamma]} if confidences else {})

    def step(count: int, reqs: list[Content]) -> Content:
        return {
            "forward_ct": count, "bs": len(reqs), "mode": mode, "num_running_reqs": len(reqs), "num_verify_tokens": 4 * len(reqs),
            "step_cpu_ms": 10.0 + len(reqs), "reqs": reqs,
        }  # fmt: skip

    steps = [step(10, [request("a", 20, 2), request("b", 30, 1)]), step(11, [request("a", 23, 0)]), step(12, [request("a", 24, 3)])]
    return {"mode": mode, "gamma": gamma, "verify_num_draft_tokens": gamma + 1, "components": ["core", "reqs", "step_cpu_time"], "records": steps}
