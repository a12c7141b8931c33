"""Files are opened and parsed in simulator/reading, and nowhere else."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

# what opens a file to read it, or parses one; names of the gate itself are called without a dot before them
OPENS = re.compile(
    r"(?:(?<![\w.])|\.)open\((?!(?:[^()\"]*, )?\"[wa])|\.read_text\(|\.read_bytes\(|\bpd\.read_\w+"
    r"|\bpq\.(?:read_\w+|ParquetFile)|\bjson\.loads?\(|_validate_json\("
    r"|\byaml\.\w*(?:load|parse|compose|Loader)\w*|\bpickle\b|\bnp\.(?:load|loadtxt|fromfile|genfromtxt|memmap)\(|\b(?:gzip|bz2|lzma|zipfile|tarfile)\."
    r"|\btorch\.load\(|\bsafe_open\(|\bload_file\("
)
ALLOWED = {  # in these files, for these reasons
    "simulator/engine/kernel/kept.py": ".read_bytes(: dsim's own sources",
    "simulator/schema.py": "_validate_json(: of what json.dumps has just made",
    "simulator/study/estimate/operators.py": "json.loads(: of what the package has just made",
    "simulator/report/style.py": "json.loads(: from a picture that was just drawn",
    "simulator/study/work/kept.py": ".read_bytes(: dsim's own sources",
    "simulator/study/work/cluster.py": ".read_bytes(: what the task has just written",
    "real_runner/cost_journal.py": "json.loads(: of what json.dumps has just made",
    "real_runner/runs.py": "json.loads(: of what json.dumps has just made",
    "real_runner/environment.py": ".read_text(: the kernel's /proc/cpuinfo, which is measured as 0 bytes",
    "real_runner/drafters/loading.py": "safe_open(: tensors",
    "real_runner/deepseek_v4/storage.py": "safe_open(: tensors",
    "real_runner/deepseek_v4/streamed.py": ".open(: tensors of the working folder, larger than memory",
    "real_runner/expect.py": "load_file(: tensors",
    "real_runner/training/loop.py": "torch.load(: tensors of the working folder, weights only",
    "real_runner/training/corpus.py": "np.load( np.memmap( .open(: arrays of the working folder, larger than memory",
}


def uses() -> dict[str, set[str]]:
    """The words that open or parse a file, by module."""
    result: dict[str, set[str]] = {}
    for package in ("simulator", "real_runner", "dsim"):
        for file in (ROOT / package).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            if not name.startswith("simulator/reading/"):
                result[name] = set(OPENS.findall(file.read_text()))
    return {name: words for name, words in result.items() if words}


USES = uses()


@pytest.mark.parametrize("name", sorted(USES.keys() | ALLOWED.keys()))
def test_files_are_opened_in_one_place(name: str) -> None:
    """A new reader uses simulator/reading; where it cannot, its reason stands above. A reason that is not needed any more goes."""
    assert USES.get(name, set()) == set(ALLOWED.get(name, "").partition(": ")[0].split())
