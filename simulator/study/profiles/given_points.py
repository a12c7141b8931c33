"""Operating points from files named on a command line: which drafter each is of, what options add to them, and what contradicts itself."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.measurements.formats.loadgen import LoadPoint, Loads, read_loads
from simulator.names import check_word
from simulator.quantities import MOST_SLOTS

CONTRADICTS = 0.1  # relative difference above which an option is taken for a mistake, where the files count it themselves
COUNT_ALL = "count the bonus token and the anchor; without speculation both are 1"
NONE = "none"  # what files without speculation may be called
ANY = "any"  # domain of files that name none
MOST_FILES = 10_000
ALWAYS = 0.98  # share of rounds that propose, above which a drafter counts as one that always does


@dataclass(frozen=True)
class Named:
    """A file, the drafter that its server ran by the word before it (`ngram=c1.json`), "" where there was none, and the domain of its prompts
    (`ngram:code=c1.json`)."""

    drafter: str
    path: Path
    domain: str = ANY


@dataclass(frozen=True)
class Cell:
    """An operating point: of which drafter ("" without speculation), from which file, whether it is kept out of the fit, and of which domain its
    prompts are."""

    point: LoadPoint
    drafter: str
    where: Path
    held_out: bool = False
    domain: str = ANY

    @property
    def slots(self) -> int:
        """Tokens drafted of a request and round; 0 without speculation."""
        return self.point.slots or 0

    @property
    def label(self) -> str:
        """What a table calls it."""
        return f"{self.drafter} k = {self.slots}" if self.drafter else "no speculation"


def named_files(words: Iterable[str | Path], option: str) -> list[Named]:
    """The files of [DRAFTER[:DOMAIN]=]FILE words, in which patterns stand for all files that they match, in order. Raises DsimError."""
    files: list[Named] = []
    for word in map(str, words):
        named, sign, rest = word.partition("=")
        name, apart, domain = named.partition(":")
        if not sign or "/" in named or Path(word).exists():
            name, apart, rest = "", "", word
        elif name != NONE:
            check_word(name, option, file=True)
        if apart:
            check_word(domain, option)
        paths = matching(rest)
        if not paths:
            raise DsimError(f"no file matches {shown(rest)}", key=option, remedy="check the pattern")
        files += [Named(name, Path(path), domain if apart else ANY) for path in paths]
        if len(files) > MOST_FILES:
            raise DsimError(f"expected at most {MOST_FILES:,} files, got more", key=option, remedy="give fewer")
    return files


def matching(pattern: str) -> list[str]:
    """The files that a pattern matches, in order; a word that is none, or names a file, as it is."""
    return [pattern] if not glob.has_magic(pattern) or Path(pattern).exists() else sorted(glob.glob(pattern), key=natural)


def natural(name: str) -> list[tuple[int, str]]:
    """Order in which c2 comes before c16."""
    import re

    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read_cells(fit: Sequence[Named], check: Sequence[Named], read: Callable[[Path], Loads]) -> tuple[list[Cell], Loads]:
    """The points of all files, and what else was found in them. Raises DsimError."""
    places: list[tuple[Named, bool]] = []
    of = {file.path: (file, held_out) for files, held_out in ((fit, False), (check, True)) for file in files}
    if twice := next((file.path for file in check if file in fit or any(other.path == file.path for other in fit)), None):
        raise DsimError("is in the fit as well", where=twice, key="--check", remedy="keep it out of one of the two")

    def noted(path: Path) -> Loads:
        loads = read(path)
        places.extend([of[path]] * len(loads.points))
        return loads

    loads = read_loads([file.path for file in (*fit, *check)], noted)
    cells = [Cell(point, file.drafter, file.path, held_out, file.domain) for point, (file, held_out) in zip(loads.points, places, strict=True)]
    for cell in cells:
        _check_whole(cell)
    return cells, loads


def _check_whole(cell: Cell) -> None:
    """Raises DsimError where the engine cut the blocks; a drafter that proposes now and then may have less to propose."""
    if cell.point.adaptive and (cell.point.proposing is None or cell.point.proposing > ALWAYS):
        problem = f"blocks of {cell.point.slots} tokens were cut, and what lies beyond the cut was never tried"
        remedy = "give results of a fixed length; cost curves (--curves) are for adaptive ones"
        raise DsimError(problem, where=cell.point.source, key="spec_decode_draft_tokens", remedy=remedy)


@dataclass(frozen=True)
class Options:
    """What the command line adds where files do not say it: tokens committed and verified per request and round, and the drafter's name."""

    accepted_length: float | None = None
    budget: float | None = None
    drafter: str = "drafter"

    def check(self) -> None:
        """Raises DsimError where an option cannot be tokens of a request and round."""
        check_per_round(self.accepted_length, self.budget)


def check_per_round(length: float | None, budget: float | None) -> None:
    """Raises DsimError where an option cannot be tokens of a request and round."""
    for option, value in (("--accepted-length", length), ("--budget", budget)):
        if value is not None and not 1 <= value <= MOST_SLOTS + 1:
            raise DsimError(f"expected 1 to {MOST_SLOTS + 1} tokens of a request and round, got {value:g}", key=option, remedy=COUNT_ALL)
    if length is not None and budget is not None:
        check_length(length, budget)


def check_length(length: float, budget: float) -> None:
    """Raises DsimError where more is committed than was verified."""
    if not 1 <= length <= budget * (1 + 1e-9):
        raise DsimError(f"expected 1 to the budget of {budget:g}, got {length:g}", key="--accepted-length", remedy=COUNT_ALL)


def completed(cells: Sequence[Cell], options: Options) -> list[Cell]:
    """Every cell with accepted length, budget, slots and drafter: as its file counts them, else as the options say. A row of SGLang that counts
    nothing, beside others that do, is of a server without speculation: its client asks the server. Files of other clients say nothing then: counters
    may have been out of reach. Raises DsimError where nothing says it, or an option contradicts."""
    options.check()
    counted = [cell for cell in cells if cell.point.accepted_length is not None and cell.point.slots != 0]
    for name in ("accepted_length", "budget"):
        _check_option(name, getattr(options, name), [cell.point for cell in cells])
    return [_completed(cell, options, bool(counted) and cell.point.engine == "SGLang") for cell in cells]


def _check_option(name: str, option: float | None, points: Sequence[LoadPoint]) -> None:
    """An option is for files that do not say it: where all do, it must agree."""
    if option is None or any(getattr(point, name) is None for point in points):
        return
    for point in points:
        value = getattr(point, name)
        if abs(option / value - 1) > CONTRADICTS:
            problem = f"{point.source} counts {value:.3g}, got {option:g}"
            raise DsimError(problem, key=f"--{name.replace('_', '-')}", remedy="leave the option out")


def _completed(cell: Cell, options: Options, would_count: bool) -> Cell:
    point, plain = cell.point, replace(cell.point, accepted_length=1.0, budget=1.0, proposing=0.0, slots=0)
    if cell.drafter == NONE or point.slots == 0:
        if cell.drafter not in ("", NONE) or (point.accepted_length or 1.0) > 1 or (cell.drafter == NONE and point.slots):
            problem = f"was called {shown(cell.drafter)}, and its server {'speculated' if point.slots else 'drafted nothing'}"
            raise DsimError(problem, where=point.source, remedy="name it by what its server ran")
        return replace(cell, point=plain, drafter="")
    length = options.accepted_length if point.accepted_length is None else point.accepted_length
    budget = options.budget if point.budget is None else point.budget
    if length is None and budget is None and would_count and not cell.drafter:
        return replace(cell, point=plain)
    for name, value in (("accepted length", length), ("budget", budget)):
        if value is None:
            remedy = "give the option; without speculation it is 1, or the file none=FILE"
            raise DsimError(f"does not say the {name} of a round", where=point.source, key=f"--{name.replace(' ', '-')}", remedy=remedy)
    assert length is not None
    assert budget is not None
    check_length(length, budget)
    if length == budget == 1:
        return replace(cell, point=plain, drafter="")
    slots = point.slots if point.slots is not None else max(round(budget - 1), 1)
    point = replace(point, accepted_length=length, budget=budget, slots=slots, adaptive=False)
    return replace(cell, point=point, drafter=cell.drafter or options.drafter)
