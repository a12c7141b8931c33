"""A tiny profile, a small scenario and the `dsim` command in this process, for the tests of the command line and of the study."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from simulator.cli import main
from simulator.measurements.acceptance import ParametricAcceptance
from simulator.study.profiles.about import without_head

ROOT = Path(__file__).resolve().parents[1]
Content = dict[str, Any]

PROFILE: Content = {
    "format": 1,
    "name": "tiny",
    "hardware": "one GPU",
    "engine": "ours",
    "target": "small",
    "gpus_per_replica": 1.0,
    "costs": {
        "verify": {"provenance": "synthetic", "kind": "curve", "base_s": 0.01, "per_token_s": 1e-4, "measured_tokens": [1, 200]},
        "overhead": {"provenance": "synthetic", "seconds": 0.001},
    },
    "drafters": {
        "head": {
            "family": "dspark",
            "gamma": 3,
            "draft": {"provenance": "synthetic", "kind": "linear"},
            "blocks": "head.parquet",
            "confidence": True,
        },
        "mtp": {"family": "mtp", "gamma": 1, "draft": {"provenance": "synthetic", "kind": "linear"}, "blocks": "mtp.parquet"},
    },
    "published": {"speed": {"file": "published/speed.csv", "x": "concurrency", "y": "tps_per_user", "label": "paper", "source": "a paper"}},
}
SCENARIO: Content = {
    "name": "small",
    "question": "Which is faster?",
    "profile": "tiny",
    "policies": [
        {"name": "plain", "verification": {"kind": "none"}},
        {"name": "MTP-1", "drafter": "mtp", "verification": {"kind": "fixed", "length": 1}},
        {"name": "scheduled", "drafter": "head", "verification": {"kind": "confidence_scheduled"}},
    ],
    "workload": {
        "arrivals": {"kind": "closed_loop"},
        "prompt_tokens": {"kind": "fixed", "tokens": 50},
        "output_tokens": {"kind": "lognormal", "mean_tokens": 20, "cv": 0.5, "max_tokens": 60},
        "domains": {"chat": 2, "code": 1},
    },
    "load": [2, 6],
    "engine": {"max_batch": 8, "prefill": {"kind": "instant"}},
    "run": {"replications": 2, "requests": 12},
    "sla": {"tps_per_user": [90]},
}


@dataclass(frozen=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str


Dsim = Callable[..., Said]


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def made_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny profile, made once; tests get copies."""
    folder = tmp_path_factory.mktemp("profile") / "tiny"
    (folder / "published").mkdir(parents=True)
    shape = {"miscalibration": [1.0], "sequences_per_domain": 4, "anchors_per_sequence": 64}
    head = ParametricAcceptance(conditional={"chat": [0.7, 0.6, 0.5], "code": [0.9, 0.8, 0.8]}, **shape)
    head.generate("head").save(folder / "head.parquet")
    mtp = ParametricAcceptance(conditional={"chat": [0.8], "code": [0.9]}, **shape)
    without_head(mtp.generate("mtp")).save(folder / "mtp.parquet")
    (folder / "published" / "speed.csv").write_text("concurrency,tps_per_user\n1,90\n4,80\n10,70\n")
    (folder / "profile.yaml").write_text(yaml.safe_dump(PROFILE, sort_keys=False))
    return folder


@pytest.fixture
def world(tmp_path: Path, made_profile: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the tiny profile and small.yaml in it."""
    shutil.copytree(made_profile, tmp_path / "tiny")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SCENARIO, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("DSIM_PREDICTION_INTERVAL", "false")  # it takes as long again; its own tests ask for it
    monkeypatch.setattr("simulator.progress.LINE_EVERY_S", float("inf"))  # how slow this machine is says nothing of what a command prints
    return tmp_path


@pytest.fixture
def scenario(world: Path) -> Callable[..., Path]:
    """Write small.yaml with some keys replaced (None drops one); returns its path."""

    def write(name: str = "small.yaml", **changes: Any) -> Path:
        content = copy.deepcopy(SCENARIO) | changes
        path = world / name
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
        return path

    return write


@pytest.fixture
def edit_profile(world: Path) -> Callable[[Callable[[Content], Any]], None]:
    """Change the copied profile's YAML."""

    def edit(change: Callable[[Content], Any]) -> None:
        content = copy.deepcopy(PROFILE)
        change(content)
        (world / "tiny" / "profile.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    return edit


@pytest.fixture
def dsim(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dsim:
    """The command as a user calls it, in this process."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr("sys.argv", ["dsim", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(bool(left.code))
        caught = capsys.readouterr()
        return Said(code, caught.out, caught.err)

    return call


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, which takes most of a report's time: for tests that look at something else."""
    from matplotlib.figure import Figure

    def savefig(_figure: Figure, out: IO[Any] | Path, *, format: str = "png", **_: object) -> None:
        drawn = b"\x89PNG" if format == "png" else b'<svg viewBox="0 0 1 1"></svg>'
        if isinstance(out, Path):
            out.write_bytes(drawn)
        else:
            out.write(drawn)

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real files that only a development machine has: DSIM_SHARED, else ../shared beside the repository."""
    folder = Path(os.environ.get("DSIM_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("the real files are not on this machine")
    return folder
