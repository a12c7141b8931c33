"""Fuzzing led by coverage, where atheris is installed: `python -m tests.fuzz.guided FAMILY [libFuzzer's options]`, for example -max_total_time=300.

The bytes that atheris makes replace a file of one of the family's readers, or choose a mutant of it.
"""

from __future__ import annotations

import shutil
import sys
from random import Random
from typing import cast, get_args

import atheris

with atheris.instrument_imports(include=["simulator", "yaml", "csv", "json"]):
    from tests.fuzz.corpus import prepare, warm
    from tests.fuzz.guard import judge, workshop
    from tests.fuzz.mutants import OPTIONS, Mutant, changed
    from tests.fuzz.readers import Family, of_family


def main() -> None:
    """Runs until libFuzzer ends it."""
    family = cast(Family, sys.argv.pop(1))
    if family not in get_args(Family):
        raise SystemExit(f"expected one of {', '.join(get_args(Family))}, got {family!r}")
    mine = of_family(family)
    with workshop() as base:
        prepare(base)
        for reader in mine:
            warm(reader, base)

        def one(content: bytes) -> None:
            given = atheris.FuzzedDataProvider(content)
            reader = mine[given.ConsumeIntInRange(0, len(mine) - 1)]
            names = sorted(name for name in reader.files() if name not in OPTIONS and (not reader.mutable or name.endswith(reader.mutable)))
            if names and given.ConsumeBool():
                name = names[given.ConsumeIntInRange(0, len(names) - 1)]
                mutant = Mutant(reader, {name: given.ConsumeBytes(given.remaining_bytes())})
            else:
                mutant = changed(reader, Random(given.ConsumeInt(8)))
            folder = base / "one"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            mutant.write(folder)
            verdict = judge(reader.read, folder)
            if verdict.end == "failed":
                raise RuntimeError(f"{reader.name}: {verdict.detail}")

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
