"""The tables of an estimated profile: which numbers of tokens, requests and contexts operators are priced at."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.study.estimate.engines import EngineDefaults
from simulator.study.estimate.operators import Operators

Table = Sequence[dict[str, float]]
FILES = ("operators.csv", "attention.csv", "prompt_operators.csv", "prompt_attention.csv")
LEAST_S = 1e-9  # of a row, where an operator takes no time
MOST_CONTEXT = 131_072
_STEPS = ((1, 8, 1), (8, 512, 8), (512, 1024, 32), (1024, 2048, 64), (2048, 4096, 128), (4096, 8192, 256), (8192, 16_385, 512))
TOKENS = tuple(sorted({n for first, end, step in _STEPS for n in range(first, end, step)}))
REQUESTS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
CONTEXTS = (0, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 24_576, 32_768, 49_152, 65_536, 98_304, 131_072)
PROMPT_TOKENS = (1, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384)
ATTENDED = (1, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12_288, 16_384, 32_768, 65_536, 131_072)


def cost_tables(operators: Operators, settings: EngineDefaults, collective: float, longest: int | None) -> dict[str, Table]:
    """FILES: seconds of what sees tokens, and of attention; of decode steps, then of prompts.

    Sizes of captured graphs are rows of their own, so that a padded step is not interpolated.
    """
    dp, most = operators.of.dp, min(longest or MOST_CONTEXT, MOST_CONTEXT)
    tokens = sorted({size * dp for size in (*TOKENS, *settings.graph_sizes)})
    requests = [r * dp for r in batches(settings.max_batch)]
    prompts = [n * dp for n in PROMPT_TOKENS if n <= max(settings.step_tokens, PROMPT_TOKENS[-1])]
    contexts, attended = upto(CONTEXTS, most), upto(ATTENDED, most)
    read = [{"requests": r, "context_tokens": c, "p50_s": operators.attention_s(r, c)} for r in requests for c in contexts]
    attends = [{"tokens": n, "context_tokens": a, "p50_s": operators.prompt_attention_s(n, a)} for n in prompts for a in attended]
    sees, prompt_sees = ([{"tokens": n, "p50_s": one(n, collective)} for n in tokens] for one in (operators.tokens_s, operators.prompt_tokens_s))
    return dict(zip(FILES, (sees, read, prompt_sees, attends), strict=True))


def batches(most: int) -> list[int]:
    """Requests of a step at which its attention is priced, to the largest batch: beyond the last row a batch would cost as that does."""
    return upto(REQUESTS, min(most, REQUESTS[-1]))


def upto(grid: Sequence[int], most: int) -> list[int]:
    """The grid's numbers below `most`, and `most`."""
    return [*(n for n in grid if n < most), most]


def text_of(rows: Table) -> str:
    """A table as CSV."""
    columns = list(rows[0])
    lines = [",".join(f"{max(row[name], LEAST_S) if name == 'p50_s' else row[name]:.7g}" for name in columns) for row in rows]
    return "\n".join([",".join(columns), *lines]) + "\n"
