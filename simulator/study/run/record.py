"""Parts of a result file: frozen, and read strictly from JSON, with one line for whatever does not fit."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.quantities import LARGEST
from simulator.schema import validate_json

LONGEST_TEXT, LONGEST_KEY = 1_000_000, 1_000  # characters; files for an engine are texts too
AGAIN = "make it again with this version of dsim"

ShortText = Annotated[str, Field(max_length=1000)]  # a name, or several joined, or none; pages show it as text, whatever is in it


class Record(BaseModel):
    """Part of a result. Unknown keys are refused; those that were never set are not written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, source: object, **more: Any) -> Self:
        """With what `source` has under the same names, and more."""
        return cls(**{name: getattr(source, name) for name in cls.model_fields if name not in more}, **more)

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it: what `from_json` reads."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def from_json(cls, data: object, where: Path | str = "", remedy: str = AGAIN) -> Self:
        """Read from parsed JSON. Raises DsimError with the first key that does not fit, and with the dsim that made it where that is another."""
        key, problem = next(_unfit(data, ""), ("", ""))
        if not problem:
            try:
                return validate_json(cls, data, where)
            except DsimError as line:
                key, problem = line.key or "", line.problem
        maker = _other_maker(data)
        raise DsimError(f"{maker or 'not a result of this dsim'} ({problem})", where=where, key=key or None, remedy=AGAIN if maker else remedy)


class Document(Record):
    """All of a result file. A file without a format is of the first."""

    format: Literal[1] = 1

    def to_json(self) -> dict[str, Any]:
        """With its format."""
        return {"format": self.format} | super().to_json()


def _other_maker(data: object) -> str:
    """Which dsim made a file that does not fit; empty where this one did, or none says so."""
    from importlib.metadata import version

    made, here = data.get("dsim_version") if isinstance(data, Mapping) else None, version("dsim")
    return f"made by dsim {shown(made)}, this is {here}" if isinstance(made, str) and made != here else ""


def _unfit(data: object, key: str) -> Iterator[tuple[str, str]]:
    """Numbers that are none or beyond all measure, and texts without end: their keys, and what is wrong."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            if len(str(name)) > LONGEST_KEY:
                yield key, f"expected keys of at most {LONGEST_KEY:,} characters, got {len(str(name)):,}"
            yield from _unfit(value, f"{key}.{name}".lstrip("."))
    elif isinstance(data, list):
        for place, value in enumerate(data):
            yield from _unfit(value, f"{key}.{place}".lstrip("."))
    elif isinstance(data, str) and len(data) > LONGEST_TEXT:
        yield key, f"expected at most {LONGEST_TEXT:,} characters, got {len(data):,}"
    elif isinstance(data, int | float) and not abs(data) <= LARGEST:  # nor is NaN
        yield key, f"expected a number of at most {LARGEST:g}, or null, got {shown(data)}"


def distinct(what: str, keys: Iterable[Hashable]) -> None:
    """Raises ValueError for what is there twice."""
    seen = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{what}: {shown(key)} is there twice")
        seen.add(key)


def known(what: str, keys: Iterable[Hashable], present: Container[Hashable]) -> None:
    """Raises ValueError for the first key that is not present."""
    for place, key in enumerate(keys):
        if key not in present:
            raise ValueError(f"{what}.{place}: {shown(key)} is not one of the result's")


def same_length(**lists: Sized) -> None:
    """Raises ValueError where they are not."""
    (first, length), *others = ((name, len(values)) for name, values in lists.items())
    for name, other in others:
        if other != length:
            raise ValueError(f"{first} has {length} entries, {name} {other}")
