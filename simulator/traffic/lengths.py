"""Lengths of prompts and answers. A length is a function of one uniform, so a request has the same length under every policy."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from scipy.special import ndtr, ndtri

from simulator.arrays import Floats, Integers
from simulator.errors import TraceError
from simulator.quantities import MOST_TOKENS, Flag, MeanTokens, Spread, Tokens, Weight
from simulator.schema import Beside, Frozen
from simulator.traffic.trace_files import trace_file, version_of


class Fixed(Frozen):
    """Always `tokens` tokens."""

    kind: Literal["fixed"] = "fixed"
    tokens: Tokens

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        return np.full(u.shape, self.tokens, dtype=np.int64)

    def expected_tokens(self) -> float:
        """The mean length."""
        return float(self.tokens)


class Uniform(Frozen):
    """Every whole number from `min_tokens` to `max_tokens` is equally likely."""

    kind: Literal["uniform"] = "uniform"
    min_tokens: Tokens
    max_tokens: Tokens

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens = {self.max_tokens} is below min_tokens = {self.min_tokens}")
        return self

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        return self.min_tokens + (u * (self.max_tokens - self.min_tokens + 1)).astype(np.int64)

    def expected_tokens(self) -> float:
        """The mean length."""
        return (self.min_tokens + self.max_tokens) / 2


class Lognormal(Frozen):
    """Lognormal with mean `mean_tokens` and one more statistic (p50, p90, p99 or cv), rounded and clipped to [min_tokens, max_tokens].

    The statistics are those before clipping. Two widths have the same p90 or p99; the narrower is used.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean_tokens: MeanTokens
    p50_tokens: MeanTokens | None = None
    p90_tokens: MeanTokens | None = None
    p99_tokens: MeanTokens | None = None
    cv: Spread | None = None
    min_tokens: Tokens = 1
    max_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        statistics = [name for name in ("p50_tokens", "p90_tokens", "p99_tokens", "cv") if getattr(self, name) is not None]
        if len(statistics) != 1:
            got = " and ".join(statistics) or "none"
            raise ValueError(f"expected mean_tokens and exactly one of p50_tokens, p90_tokens, p99_tokens, cv; got {got}")
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens = {self.max_tokens} is below min_tokens = {self.min_tokens}")
        if self.p50_tokens and self.p50_tokens >= self.mean_tokens:
            raise ValueError(f"the p50 of a lognormal is below its mean, got p50_tokens = {self.p50_tokens:g}, mean_tokens = {self.mean_tokens:g}")
        for p, z, name in self._upper_quantiles():
            if not 1 < p / self.mean_tokens <= np.exp(z**2 / 2):
                raise ValueError(
                    f"with mean_tokens = {self.mean_tokens:g}, {name} must be between {self.mean_tokens:g} and "
                    f"{self.mean_tokens * np.exp(z**2 / 2):.6g}, got {p:g}"
                )
        return self

    def _upper_quantiles(self) -> list[tuple[float, float, str]]:
        """The configured upper quantile, with its standard normal z and its name."""
        pairs = ((self.p90_tokens, 0.90, "p90_tokens"), (self.p99_tokens, 0.99, "p99_tokens"))
        return [(value, float(ndtri(q)), name) for value, q, name in pairs if value is not None]

    @property
    def sigma(self) -> float:
        """Standard deviation of the log length."""
        if self.p50_tokens:
            return float(np.sqrt(2 * np.log(self.mean_tokens / self.p50_tokens)))  # mean = p50 exp(σ²/2)
        if self.cv:
            return float(np.sqrt(np.log1p(self.cv**2)))
        ((value, z, _),) = self._upper_quantiles()
        return float(z - np.sqrt(z**2 - 2 * np.log(value / self.mean_tokens)))  # log(p / mean) = zσ - σ²/2

    @property
    def mu(self) -> float:
        """Mean of the log length."""
        return float(np.log(self.mean_tokens) - self.sigma**2 / 2)

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        with np.errstate(over="ignore"):
            length = np.exp(self.mu + self.sigma * ndtri(u))
        return np.clip(np.rint(length), self.min_tokens, self.max_tokens or MOST_TOKENS).astype(np.int64)

    def expected_tokens(self) -> float:
        """The mean length after clipping, before rounding."""
        low, high = ((np.log(edge) - self.mu) / self.sigma for edge in (self.min_tokens, self.max_tokens or MOST_TOKENS))
        inside = self.mean_tokens * (ndtr(high - self.sigma) - ndtr(low - self.sigma))
        return float(self.min_tokens * ndtr(low) + inside + (self.max_tokens or MOST_TOKENS) * ndtr(-high))


class Empirical(Frozen):
    """Lengths drawn with replacement from a column of a CSV or JSON-lines file. A relative `path` is relative to the scenario file.
    `drop_empty_rows` leaves out lengths of 0.

    Validate with `context={"folder": Path}`, the folder of that file; the path becomes absolute.
    """

    kind: Literal["empirical"] = "empirical"
    path: Annotated[Path, Beside]
    column: str
    drop_empty_rows: Flag = False

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        self._values()
        return self

    def _values(self) -> Integers:
        """The column, sorted, read once per process and file. # [n]"""
        return _sorted_column(self.path, self.column, self.drop_empty_rows, version_of(self.path))

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        values = self._values()
        return values[np.minimum((u * len(values)).astype(np.int64), len(values) - 1)]

    def expected_tokens(self) -> float:
        """The mean length."""
        return float(self._values().mean())


class Part(Frozen):
    """One part of a mixture; weights are relative."""

    weight: Weight
    lengths: Lengths


class Mixture(Frozen):
    """One of the parts, with probability proportional to its weight."""

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[Part, ...], Field(min_length=1, max_length=1000)]

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1); a uniform chooses the part and, rescaled to [0, 1), the length in it. # [n] -> [n]"""
        shares = self._shares()
        edges = np.cumsum(shares)
        chosen = np.minimum(np.searchsorted(edges, u, side="right"), len(shares) - 1)
        within = np.clip((u - (edges - shares)[chosen]) / shares[chosen], 0.0, np.nextafter(1.0, 0.0))
        lengths = np.empty(u.shape, dtype=np.int64)
        for i, part in enumerate(self.parts):
            lengths[chosen == i] = part.lengths.at(within[chosen == i])
        return lengths

    def expected_tokens(self) -> float:
        """The mean length."""
        return float(np.dot(self._shares(), [part.lengths.expected_tokens() for part in self.parts]))

    def _shares(self) -> Floats:
        weights = np.array([part.weight for part in self.parts])
        return np.asarray(weights / weights.sum())


Lengths = Annotated[Fixed | Uniform | Lognormal | Mixture | Empirical, Field(discriminator="kind")]
Part.model_rebuild()
Mixture.model_rebuild()


@lru_cache(maxsize=32)
def _sorted_column(path: Path, column: str, drop_empty_rows: bool, version: tuple[int, int]) -> Integers:
    """A column of whole numbers of at least 1, sorted. # [n]"""
    values = np.sort(trace_file(path).whole(column, least=0))
    empty = int(np.searchsorted(values, 1))
    if empty and (not drop_empty_rows or empty == len(values)):
        problem = f"{empty:,} of {len(values):,} lengths {'is' if empty == 1 else 'are'} 0"
        remedy = "set drop_empty_rows: true to leave them out" if empty < len(values) else "use another column"
        raise TraceError(problem, where=path, key=column, remedy=remedy)
    values = values[empty:]
    values.setflags(write=False)
    return values
