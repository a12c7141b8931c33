"""The wheel takes one name, `dsim`: the packages of the repository and its data lie inside, where nobody else's `simulator` is met.

Their modules import each other by the names that they have in the repository, so these lines are rewritten. An editable install keeps the
repository's names.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = ("simulator", "real_runner", "profiles", "scenarios")
IMPORT = re.compile(rf"^(\s*(?:from|import) )(?=(?:{'|'.join(INSIDE[:2])})\b)", re.MULTILINE)


class Inside(BuildHookInterface):
    """Puts the folders INSIDE the package, and the package's own imports right."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a wheel is built."""
        if version == "editable":
            return
        self.build_config.set_exclude_all()  # nothing but what is put into it below
        self.copies = tempfile.TemporaryDirectory()
        root = Path(self.root)
        for file in sorted(file for folder in ("dsim", *INSIDE) for file in (root / folder).rglob("*") if file.is_file()):
            place = file.relative_to(root)
            if "__pycache__" in place.parts or (place.parts[0] == "profiles" and file.suffix == ".py"):
                continue
            if file.suffix == ".py":
                copy = Path(self.copies.name) / place
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(IMPORT.sub(r"\1dsim.", file.read_text(encoding="utf-8")), encoding="utf-8")
                file = copy
            build_data["force_include"][str(file)] = str(place if place.parts[0] == "dsim" else Path("dsim") / place)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called by hatchling after."""
        if version != "editable":
            self.copies.cleanup()
