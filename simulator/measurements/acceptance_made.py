"""Writes the folder of an acceptance: of recorded blocks that were measured, or of what others published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from simulator.files import write_whole
from simulator.measurements.acceptance_library import FILE, Acceptance, load_acceptance
from simulator.measurements.calibration import calibrate
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.statistics import acceptance_statistics, visited_rows

LOOKS: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 160}


class _InARow(dict[str, Any]):
    """A mapping on a line of its own."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_InARow, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True))


def save_acceptance(about: Mapping[str, Any], blocks: RecordedBlocks, folder: Path, made_by: str) -> Acceptance:
    """acceptance.yaml and the blocks in `folder`, read back as they will be."""
    content = Acceptance.model_validate({"format": 1} | dict(about)).model_dump(mode="json", exclude_none=True)
    folder.mkdir(parents=True, exist_ok=True)
    blocks.save(folder / content["blocks"])
    text = yaml.dump(content | {"domains": {name: _InARow(it) for name, it in content["domains"].items()}}, Dumper=_Dumper, **LOOKS)
    write_whole(folder / FILE, f"# {made_by}\n{text}")
    made = load_acceptance(folder)
    made.recorded()
    return made


def about_measured(blocks: RecordedBlocks, name: str, target: str, family: str, sample: str) -> dict[str, Any]:
    """What acceptance.yaml says of measured blocks: lengths and positions of the anchors that a run visits which verifies whole blocks. A share that
    no text contradicts has half a text against it, since neither 0 nor 1 can be measured."""
    rows, domains = visited_rows(blocks), {}
    for domain in blocks.domains:
        found = acceptance_statistics(blocks, domain, rows)
        reached = found.rows * np.concatenate([[1.0], found.survival[:-1]])
        least = np.maximum(0.5 / (reached + 1), 2e-6)
        shares = np.clip(np.nan_to_num(found.conditional, nan=0.5), least, 1 - least)
        length = round(found.accepted_length, 4)
        domains[domain] = {
            "kind": domain,
            "accepted_length": length,
            "conditional": [round(float(share), 6) for share in shares],
            "shape": "measured",
        }
    confidence = blocks.confidence is not None
    return {
        "name": name, "target": target, "family": family, "gamma": blocks.gamma, "confidence": confidence,
        "temperatures": calibrate(blocks).temperatures if confidence and len(blocks.length) > 1 else None,
        "provenance": "measured", "source": blocks.source, "sample": sample, "domains": domains,
        "unknown": ["acceptance on other texts, and at other temperatures"],
    }  # fmt: skip
