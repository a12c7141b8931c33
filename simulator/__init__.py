"""dsim's simulator: traffic replayed against measured costs and recorded acceptance. No torch, no GPU.

From Python: `from dsim import load_scenario, evaluate, plan, profile` (docs/python.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.policies.verification import StepView, VerificationPolicy
    from simulator.report.notebook import evaluate, plan, profile
    from simulator.study.run.scenario import load_scenario

    __version__: str

__all__ = ["StepView", "VerificationPolicy", "__version__", "evaluate", "load_scenario", "plan", "profile"]


def __getattr__(name: str) -> Any:
    """The entry points, imported when they are used: the command must start without pandas."""
    if name == "load_scenario":
        from simulator.study.run.scenario import load_scenario

        return load_scenario
    if name in ("evaluate", "plan", "profile"):
        from simulator.report import notebook

        return getattr(notebook, name)
    if name in ("StepView", "VerificationPolicy"):
        from simulator.policies import verification

        return getattr(verification, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("dsim")
    raise AttributeError(f"dsim has no attribute '{name}'")
