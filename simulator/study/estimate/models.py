"""Which model is meant: one that the package has, one whose shapes ship with dsim, or a folder with config.json. Nothing is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from simulator.complaints import shown
from simulator.errors import DsimError
from simulator.misspelt import likeness
from simulator.names import check_word
from simulator.reading.json_files import read_json
from simulator.study.estimate.package import models

CONFIGS = Path(__file__).parent / "configs"  # folders ORGANISATION--NAME of models that the package lacks
_QUANTISED = re.compile(r"[-_](fp8|nvfp4|int4|awq|gptq|fp4)([-_].*)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Model:
    """A model: its name for people, and what the package is asked for (a name of its own, or a folder)."""

    name: str
    asked: str

    @property
    def note(self) -> str:
        """What is not as the name says."""
        other = self.asked if self.asked in models() else ""
        return "" if other in ("", self.name) else f"the shapes are those of {other}"


def model_names() -> list[str]:
    """All that need no folder."""
    return sorted({*models(), *_own()}, key=str.lower)


def find_model(said: str, where: str = "--model") -> Model:
    """The model called `said`. Raises DsimError with the nearest names for one that is not known."""
    if Path(said).is_dir():
        return _in_folder(Path(said), where)
    if said in models():
        return Model(said, said)
    if said in _own():
        return Model(said, str(_own()[said]))
    alike = [name for name in model_names() if _plain(name) == _plain(said)]
    if len(alike) == 1:
        return Model(said if "/" in said else alike[0], str(_own().get(alike[0], alike[0])))
    bare = _QUANTISED.sub("", said)
    if bare != said and (same := [name for name in model_names() if _plain(name) == _plain(bare)]):
        remedy = f"--model {same[0]} with the quantisation in --gemm, --moe and --kv, or a folder that holds its config.json"
        raise DsimError(f"no configuration of {shown(said)} is known", where=where, remedy=remedy)
    near = sorted(model_names(), key=lambda name: max(likeness(said, name), likeness(said, name.partition("/")[2])), reverse=True)[:3]
    remedy = f"near it: {', '.join(near)}; `dsim estimate --list` shows all, and a folder with config.json may be given instead"
    raise DsimError(f"no configuration of {shown(said)} is known, and none is fetched", where=where, remedy=remedy)


def _own() -> dict[str, Path]:
    return {folder.name.replace("--", "/", 1): folder for folder in sorted(CONFIGS.iterdir()) if folder.is_dir()}


def _in_folder(folder: Path, where: str) -> Model:
    path = folder / "config.json"
    config = read_json(path, remedy=f"{where} wants the name of a model, or a folder that holds its config.json")
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and all(isinstance(one, str) for one in architectures)):
        problem = f"expected a list of one architecture, got {shown(architectures)}"
        raise DsimError(problem, where=path, key="architectures", remedy="take the config.json that the model came with")
    named = config.get("_name_or_path")
    name = named if isinstance(named, str) and named.count("/") == 1 and not named.startswith((".", "/")) else folder.resolve().name
    return Model(check_word(name, where), str(folder))


def _plain(name: str) -> str:
    """A name without its organisation, and without what does not change shapes."""
    return re.sub(r"^meta[-_]|[-_](instruct|it|base|chat|hf)$", "", name.rpartition("/")[2].lower())
