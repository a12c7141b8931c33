"""Drafters of an estimate, each with its acceptance from the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulator.errors import DsimError
from simulator.measurements.acceptance_library import Acceptance, acceptances, load_acceptance, neighbours
from simulator.measurements.assumed import assumed_uncertainty
from simulator.measurements.draft_blocks import RecordedBlocks
from simulator.measurements.profile import Drafter, Profile, save_profile
from simulator.study.estimate.draft_prices import REQUESTS, PricedDrafter, price_drafter
from simulator.study.estimate.drafters import read_drafter
from simulator.study.estimate.operators import Operators
from simulator.study.estimate.tables import upto


@dataclass(frozen=True)
class PricedFor:
    """A drafter as the profile has it."""

    name: str
    priced: PricedDrafter
    acceptance: Acceptance
    drafter: Drafter
    blocks: RecordedBlocks
    assumed: list[str]

    def said(self, profile: Profile) -> str:
        """What it is in the written profile, in a line."""
        whole = 1000 * profile.drafters[self.name].draft.seconds(1, 1024, self.drafter.gamma)
        return f"{whole:.2f} ms a round of one request, acceptance {self.acceptance.name} ({self.acceptance.target})"


def drafters_of(asked: Sequence[str], named: Sequence[str], target: str, operators: Operators, max_batch: int) -> list[PricedFor]:
    """Each drafter priced, with the acceptance of its family. Raises DsimError where one is not known, or an acceptance is left over."""
    given = [load_acceptance(name, "--acceptance") for name in named]
    made: list[PricedFor] = []
    for said in asked:
        shape = read_drafter(said, target, operators.sizes)
        name = f"{shape.family}-{shape.gamma}"
        if any(one.name == name for one in made):
            raise DsimError(f"two drafters are {name}", where="--drafter", remedy="estimate them one by one, into two profiles")
        acceptance = _acceptance(shape.family, target, given)
        requests = upto(REQUESTS, min(max_batch, REQUESTS[-1]))
        priced = price_drafter(operators, shape, name, requests=[r * operators.of.dp for r in requests])
        drafter = acceptance.as_drafter(priced.cost, target, f"{name}.parquet", shape.gamma, priced.kv_bytes_per_token)
        made.append(PricedFor(name, priced, acceptance, drafter, acceptance.recorded(shape.gamma), acceptance.assumed_for(target)))
    if left := [one.name for one in given if all(one is not drafter.acceptance for drafter in made)]:
        raise DsimError(f"acceptance '{left[0]}' is of no drafter that was asked for", where="--acceptance", remedy="give its family with --drafter")
    return made


def _acceptance(family: str, target: str, given: Sequence[Acceptance]) -> Acceptance:
    """The one of this family that was named, else the library's of this very model. Raises DsimError where there is none."""
    named = [one for one in given if one.family == family]
    if len(named) > 1:
        raise DsimError(f"two acceptances are of {family} drafters", where="--acceptance", remedy="name one for each drafter")
    if named:
        return named[0]
    shipped = [load_acceptance(folder) for folder in acceptances().values()]
    own = [one for one in shipped if one.family == family and one.fits(target) == "same model"]
    if own:
        return own[0]
    near = neighbours(target, family)[:3]
    remedy = f"name another model's with --acceptance: {', '.join(near)}" if near else "`dsim acceptance list` shows them"
    raise DsimError(f"no acceptance of {family} drafters with {target} is known", where="--acceptance", remedy=remedy)


def with_acceptance(profile: Profile, drafters: Sequence[PricedFor], header: str) -> None:
    """The written profile again, with what is not sure of its drafters' acceptance as the library says it."""
    assumed = assumed_uncertainty(profile)
    names = {drafter.name for drafter in drafters}
    kept = [one for one in assumed.parameters if not (one.drafter in names and one.parameter in ("level", "tilt"))]
    said = [one for drafter in drafters for one in drafter.acceptance.unsure_for(profile.target, drafter.name)]
    sure = assumed.model_copy(update={"parameters": [*kept, *said]})
    save_profile(profile.model_copy(update={"uncertainty": sure}), profile.folder, header)
