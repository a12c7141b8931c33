"""Models that are read from a file: frozen, unknown keys refused, and a one-line error for whatever does not fit."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from simulator.errors import DsimError, ScenarioError
from simulator.files import read_text

_SHAPES = dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a mapping of keys to values")
_SHAPES |= dict.fromkeys(("list_type", "tuple_type"), "must be a list")


class Frozen(BaseModel):
    """Read from a file and never changed. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML in which a key may appear once; PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(problem=f"key '{key.value}' appears twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, error: type[DsimError] = ScenarioError) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `error` with file and line when it cannot be read."""
    try:
        content = yaml.load(read_text(path, error), _Loader)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise error(f"not valid YAML ({getattr(problem, 'problem', None) or 'syntax'})", where=where, remedy="fix the line") from None
    if not isinstance(content, dict):
        raise error("expected a mapping of keys to values", where=path, remedy="see the examples in scenarios/")
    return content


def validate(
    model: type[Model],
    content: Mapping[str, Any],
    where: Path | str,
    error: type[DsimError] = ScenarioError,
    context: dict[str, Any] | None = None,
) -> Model:
    """`content` as a `model`. Raises `error` as one line, with the nearest valid key."""
    try:
        return model.model_validate(content, context=context)
    except ValidationError as problem:
        raise explain(problem, model, where, error) from None


def explain(problem: ValidationError, model: type[BaseModel], where: Path | str, error: type[DsimError] = ScenarioError) -> DsimError:
    """The most telling of pydantic's complaints, as one line; an unknown key first, for it often explains the others."""
    complaints = problem.errors(include_url=False)
    first = next((complaint for complaint in complaints if complaint["type"] == "extra_forbidden"), complaints[0])
    location = [str(part) for part in first["loc"]]
    steps = _steps(model, location)
    key = ".".join(part for part, (is_key, _) in zip(location, steps, strict=True) if is_key)
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        owners = steps[-2][1] if len(steps) > 1 else [model]
        remedy = nearest(location[-1], sorted(owners[0].model_fields) if owners else [], "valid keys")
        return error(f"unknown key '{location[-1]}'", where=where, key=key, remedy=remedy)
    if kind == "missing":
        return error("required key is missing", where=where, key=key, remedy="add it")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        models = steps[-1][1] if steps else [model]
        kinds = [str(m.model_fields["kind"].default) for m in models if "kind" in m.model_fields]
        tag = first.get("ctx", {}).get("tag")
        what = f"unknown kind '{tag}'" if tag is not None else "has no 'kind'"
        return error(what, where=where, key=key, remedy=nearest(str(tag or ""), kinds, "kinds"))
    message = _SHAPES.get(kind) or first["msg"].removeprefix("Value error, ").replace("Input should ", "must ", 1)
    got = "" if isinstance(value, dict | list) else f" (got {value!r})"
    return error(message[0].lower() + message[1:] + got, where=where, key=key or None)


def nearest(word: str, valid: Sequence[str], what: str) -> str:
    """The remedy for an unknown word: the nearest valid one, else all of them."""
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"{what}: {', '.join(valid) or 'see docs/'}"


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """All the models an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]


def _steps(model: type[BaseModel], location: list[str]) -> list[tuple[bool, list[type[BaseModel]]]]:
    """For each part of a pydantic location: is it a key or index of the file (not a union's tag), and the models it leads to."""
    models, may_be_tag, steps = [model], False, []
    for part in location:
        tagged = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        named = [m for m in models if part in m.model_fields]
        is_tag = bool(may_be_tag and tagged)
        is_key = not is_tag and not (may_be_tag and not named and any(part == m.__name__ for m in models))
        if is_tag:
            models = tagged
        elif named:
            models = [inner for m in named for inner in _models_in(m.model_fields[part].annotation)]
        if is_key:
            may_be_tag = len(models) > 1 or part.isdigit() or bool(named)
        elif is_tag:
            may_be_tag = False
        steps.append((is_key, models))
    return steps
