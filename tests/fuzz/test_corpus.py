"""Minimal inputs that once broke a reader: each ends with one line, or is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.corpus import Case, cases, prepare, warm, write_files
from tests.fuzz.guard import judge
from tests.fuzz.readers import READERS, Reader

CASES = list(cases())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the cases, beside files that are none of theirs."""
    folder = tmp_path_factory.mktemp("fuzz")
    prepare(folder)
    return folder


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_valid_files_are_accepted(reader: Reader, base: Path) -> None:
    """What is mutated can be read, and the guard lets it."""
    warm(reader, base)
    folder = base / f"valid-{reader.name}"
    write_files(folder, reader.files())
    verdict = judge(reader.read, folder)
    assert verdict.end == "accepted", verdict.detail


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.reader.name}: {case.title}")
def test_corpus(case: Case, base: Path) -> None:
    warm(case.reader, base)
    folder = base / f"case-{CASES.index(case)}"
    case.write(folder)
    verdict = judge(case.reader.read, folder)
    assert verdict.end in case.ends, verdict
