"""Models that are read from a file: frozen, unknown keys refused, and a one-line error for whatever does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from simulator.complaints import value_line
from simulator.errors import DsimError, ScenarioError
from simulator.misspelt import Foreign, key_remedy, models_in, nearest
from simulator.names import check_place, home


class Frozen(BaseModel):
    """Read from a file and never changed. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")


def _distinct(values: list[Item]) -> list[Item]:
    seen: set[Item] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"has {value:.15g} twice" if isinstance(value, int | float) else f"has {value!r} twice")
        seen.add(value)
    return values


Distinct = AfterValidator(_distinct)  # of a list: no value appears twice


def beside(path: Path, info: ValidationInfo) -> Path:
    """A path made absolute; a relative one starts at the `folder` of the validation's context, else at the working folder."""
    return (Path((info.context or {}).get("folder", ".")) / home(check_place(path))).resolve()


Beside = AfterValidator(beside)  # of a path: it is relative to the file that names it


def validate(
    model: type[Model],
    content: Mapping[str, Any],
    where: Path | str,
    error: type[DsimError] = ScenarioError,
    context: dict[str, Any] | None = None,
    foreign: Foreign | None = None,
) -> Model:
    """`content` as a `model`. Raises `error` as one line, with the nearest valid key; `foreign` has the keys of other kinds of file."""
    try:
        return model.model_validate(content, context=context)
    except ValidationError as problem:
        raise explain(problem, model, where, error, foreign) from None


def validate_json(model: type[Model], content: Any, where: Path | str, remedy: str | None = None) -> Model:
    """Parsed JSON as a `model`; no value is taken for one of another type. Raises DsimError as `validate` does, with `remedy` where one is given."""
    try:
        return model.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as problem:
        line = explain(problem, model, where, DsimError)
        raise DsimError(line.problem, where=where, key=line.key, remedy=remedy or line.remedy) from None


def explain(
    problem: ValidationError, model: type[BaseModel], where: Path | str, error: type[DsimError] = ScenarioError, foreign: Foreign | None = None
) -> DsimError:
    """The most telling of pydantic's complaints, as one line; an unknown key first, for it often explains the others."""
    complaints = problem.errors(include_url=False)
    first = next((complaint for complaint in complaints if complaint["type"] in ("extra_forbidden", "invalid_key")), complaints[0])
    location = [str(part) for part in first["loc"]]
    steps = _steps(model, location)
    parts = [part for part, (is_key, _) in zip(location, steps, strict=True) if is_key]
    key, kind, models = ".".join(parts), first["type"], steps[-1][1] if steps else [model]
    if kind == "invalid_key" or location[-1:] == ["[key]"]:
        if kind == "value_error":  # of a text that is not a name
            key, message, fix = ".".join(location[:-2]), value_line(dict(first), key, models)[0], "rename it"
        else:
            word = location[-1] if kind == "invalid_key" else location[-2]
            key, message, fix = key.removesuffix(".[key]"), f"expected a text as a key, got {word}", f"write '{word}' in quotes"
        return error(message, where=where, key=key, remedy=fix)
    if kind == "extra_forbidden":
        owners = steps[-2][1] if len(steps) > 1 else [model]
        chosen = str(owners[0].model_fields["kind"].default) if len(owners) == 1 and "kind" in owners[0].model_fields else None
        here = sorted({name for owner in owners for name in owner.model_fields})
        instead = key_remedy(parts, chosen, model, here, foreign or {})
        return error(f"unknown key '{location[-1]}'", where=where, key=key, remedy=instead)
    if kind == "missing" and parts[-1].isdigit():
        return error("has too few entries", where=where, key=".".join(parts[:-1]), remedy=f"add entry {int(parts[-1]) + 1}")
    if kind == "missing":
        return error("required key is missing", where=where, key=key, remedy="add it")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [str(m.model_fields["kind"].default) for m in models if "kind" in m.model_fields]
        tag = first.get("ctx", {}).get("tag")
        what = f"unknown kind '{tag}'" if tag not in (None, "None") else "has no 'kind'"
        return error(what, where=where, key=key, remedy=nearest(str(tag or "") if what[0] == "u" else "", kinds, "kinds"))
    same = [dict(complaint) for complaint in complaints if not steps[-1][0] and complaint["loc"][:-1] == first["loc"][:-1]] if steps else []
    message, remedy = value_line(dict(first), key, models, same)
    return error(message, where=where, key=key or None, remedy=remedy)


def _steps(model: type[BaseModel], location: list[str]) -> list[tuple[bool, list[type[BaseModel]]]]:
    """For each part of a pydantic location: is it a key or index of the file (not a union's tag), and the models it leads to."""
    models, may_be_tag, steps = [model], False, []
    for part in location:
        tagged = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        named = [m for m in models if part in m.model_fields]
        is_tag = bool(may_be_tag and tagged)
        is_type = part in ("bool", "int", "float", "str") or part.endswith("]")  # of a union of plain values
        is_key = not is_tag and not (may_be_tag and not named and (is_type or any(part == m.__name__ for m in models)))
        if is_tag:
            models = tagged
        elif named:
            models = [inner for m in named for inner in models_in(m.model_fields[part].annotation)]
        if is_key:
            may_be_tag = len(models) > 1 or part.isdigit() or bool(named)
        elif is_tag:
            may_be_tag = False
        steps.append((is_key, models))
    return steps
