"""Mutated files into every reader: each input is read or refused with one line. The same inputs every time; `make fuzz` has others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.corpus import prepare, warm
from tests.fuzz.readers import Family, of_family

INPUTS: dict[Family, int] = {"yaml": 300, "json": 400, "csv": 300, "parquet": 300, "checkpoints": 100}


@pytest.mark.parametrize("family", INPUTS)
def test_mutated_files_are_read_or_refused(family: Family, tmp_path: Path) -> None:
    if family == "checkpoints":
        pytest.importorskip("transformers")
    prepare(tmp_path)
    for reader in of_family(family):
        warm(reader, tmp_path)
    tally = fuzz(family, 0, range(INPUTS[family]), tmp_path)
    assert not tally.failures, "\n".join(failure.line(0) for failure in tally.failures)
    assert min(tally.ends["accepted"], tally.ends["refused"]) >= 5  # mutants are neither all broken nor all the same
