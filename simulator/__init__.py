"""dsim's simulator: traffic replayed against measured costs and recorded acceptance. No torch, no GPU.

From Python: `from simulator import load_scenario, evaluate, plan` (docs/python.md).
"""

from __future__ import annotations

from typing import Any

__all__ = ["evaluate", "load_scenario", "plan"]


def __getattr__(name: str) -> Any:
    """The three entry points, imported when asked for: the command must start without pandas."""
    if name == "load_scenario":
        from simulator.study.run.scenario import load_scenario

        return load_scenario
    if name in ("evaluate", "plan"):
        from simulator.report import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'simulator' has no attribute '{name}'")
