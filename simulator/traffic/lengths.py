"""How long prompts and answers are. A length is a function of one uniform, so request k keeps its length whatever else happens."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator
from scipy.special import ndtr, ndtri

from simulator.arrays import Floats, Integers
from simulator.schema import Frozen
from simulator.traffic.trace_files import read_table

Positive = Annotated[float, Field(gt=0)]
_MOST_TOKENS = 2**53


class _Drawn(Frozen):
    """What all lengths share: a sample is the lengths at random uniforms."""

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        raise NotImplementedError

    def sample(self, n: int, rng: np.random.Generator) -> Integers:
        """`n` independent lengths. # [n]"""
        return self.at(rng.random(n))


class Fixed(_Drawn):
    """Always `tokens`."""

    kind: Literal["fixed"] = "fixed"
    tokens: PositiveInt

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        return np.full(u.shape, self.tokens, dtype=np.int64)

    def expected_tokens(self) -> float:
        """The mean length."""
        return float(self.tokens)


class Lognormal(_Drawn):
    """Lognormal with mean `mean_tokens` and the one other statistic given, rounded, then clipped to [min_tokens, max_tokens].

    The statistics are those before clipping. A p90 or p99 fits two widths; the narrower is taken.
    """

    kind: Literal["lognormal"] = "lognormal"
    mean_tokens: Positive
    p50_tokens: Positive | None = None
    p90_tokens: Positive | None = None
    p99_tokens: Positive | None = None
    cv: Positive | None = None
    min_tokens: PositiveInt = 1
    max_tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _is_pinned(self) -> Self:
        given = [name for name in ("p50_tokens", "p90_tokens", "p99_tokens", "cv") if getattr(self, name) is not None]
        if len(given) != 1:
            found = "none is given" if not given else f"{' and '.join(given)} are given"
            raise ValueError(f"mean_tokens and exactly one of p50_tokens, p90_tokens, p99_tokens, cv pin a lognormal, but {found}")
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens = {self.max_tokens} is below min_tokens = {self.min_tokens}")
        if self.p50_tokens and self.p50_tokens >= self.mean_tokens:
            raise ValueError(f"the p50 of a lognormal lies below its mean, but p50_tokens = {self.p50_tokens:g}, mean_tokens = {self.mean_tokens:g}")
        for p, z, name in self._upper_quantiles():
            if not 1 < p / self.mean_tokens <= np.exp(z**2 / 2):
                raise ValueError(
                    f"with mean_tokens = {self.mean_tokens:g}, {name} must lie between {self.mean_tokens:g} and "
                    f"{self.mean_tokens * np.exp(z**2 / 2):.6g}, but is {p:g}"
                )
        return self

    def _upper_quantiles(self) -> list[tuple[float, float, str]]:
        """The upper quantile given, with its standard normal z and its name."""
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
        return np.clip(np.rint(length), self.min_tokens, self.max_tokens or _MOST_TOKENS).astype(np.int64)

    def expected_tokens(self) -> float:
        """The mean length after clipping (rounding left aside)."""
        low, high = ((np.log(edge) - self.mu) / self.sigma for edge in (self.min_tokens, self.max_tokens or _MOST_TOKENS))
        inside = self.mean_tokens * (ndtr(high - self.sigma) - ndtr(low - self.sigma))
        return float(self.min_tokens * ndtr(low) + inside + (self.max_tokens or _MOST_TOKENS) * ndtr(-high))


class Empirical(_Drawn):
    """Lengths drawn with replacement from a column of a CSV file; a relative `path` is relative to the scenario file.

    The loader says where that is: `model_validate(..., context={"folder": Path})`; the path is then kept absolute.
    """

    kind: Literal["empirical"] = "empirical"
    path: Path
    column: str

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path, info: ValidationInfo) -> Path:
        return (Path((info.context or {}).get("folder", ".")) / path.expanduser()).resolve()

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        _sorted_column(self.path, self.column)
        return self

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1). # [n] -> [n]"""
        values = _sorted_column(self.path, self.column)
        return values[np.minimum((u * len(values)).astype(np.int64), len(values) - 1)]

    def expected_tokens(self) -> float:
        """The mean length."""
        return float(_sorted_column(self.path, self.column).mean())


class Part(Frozen):
    """One part of a mixture; weights are relative."""

    weight: Positive
    lengths: Lengths


class Mixture(_Drawn):
    """With probability proportional to its weight, one of the parts."""

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    def at(self, u: Floats) -> Integers:
        """Lengths at uniforms in [0, 1): one uniform chooses the part and, stretched over the part's share, the length in it. # [n] -> [n]"""
        shares = self._shares()
        edges = np.cumsum(shares)
        chosen = np.minimum(np.searchsorted(edges, u, side="right"), len(shares) - 1)
        within = np.clip((u - (edges - shares)[chosen]) / shares[chosen], 0.0, np.nextafter(1.0, 0.0))
        out = np.empty(u.shape, dtype=np.int64)
        for i, part in enumerate(self.parts):
            out[chosen == i] = part.lengths.at(within[chosen == i])
        return out

    def expected_tokens(self) -> float:
        """The mean length."""
        return float(np.dot(self._shares(), [part.lengths.expected_tokens() for part in self.parts]))

    def _shares(self) -> Floats:
        weights = np.array([part.weight for part in self.parts])
        return np.asarray(weights / weights.sum())


Lengths = Annotated[Fixed | Lognormal | Mixture | Empirical, Field(discriminator="kind")]
Part.model_rebuild()
Mixture.model_rebuild()


@lru_cache(maxsize=32)
def _sorted_column(path: Path, column: str) -> Integers:
    """A column of whole numbers of at least 1, sorted. # [n]"""
    values = np.sort(read_table(path, [column]).whole(column, least=1))
    values.setflags(write=False)
    return values
