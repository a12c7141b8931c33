"""dsim from Python: `from dsim import load_scenario, evaluate, plan, profile` (docs/python.md). Each is imported when it is used."""

from typing import TYPE_CHECKING

from simulator import __getattr__ as __getattr__

if TYPE_CHECKING:
    from simulator import StepView, VerificationPolicy, __version__, evaluate, load_scenario, plan, profile

__all__ = ["StepView", "VerificationPolicy", "__version__", "evaluate", "load_scenario", "plan", "profile"]
