"""What is read from a file: frozen models that refuse unknown keys, and one-line errors for what does not fit."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from simulator.errors import DsimError, ScenarioError

_SHAPES = dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a mapping of keys to values")
_SHAPES |= dict.fromkeys(("list_type", "tuple_type"), "must be a list")


class Frozen(BaseModel):
    """Read from a file, never changed after, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once; PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(problem=f"key '{key.value}' stands here twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, error: type[DsimError] = ScenarioError) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `error` with file and line when it cannot be read."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise error("no such file", where=path, remedy="check the path") from None
    except IsADirectoryError:
        raise error("is a folder, not a YAML file", where=path, remedy="name the file in it") from None
    except OSError as problem:
        raise error(f"cannot be read ({problem.strerror})", where=path, remedy="name a readable file") from None
    except UnicodeDecodeError:
        raise error("is not UTF-8 text", where=path, remedy="save it as UTF-8") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise error(f"not valid YAML ({getattr(problem, 'problem', None) or 'syntax'})", where=where, remedy="mend the line") from None
    if not isinstance(content, dict):
        raise error("holds no mapping of keys to values", where=path, remedy="see the examples in scenarios/")
    return content


def validate(
    model: type[Model],
    content: Mapping[str, Any],
    where: Path | str,
    error: type[DsimError] = ScenarioError,
    context: dict[str, Any] | None = None,
) -> Model:
    """`content` as a `model`; the first thing that does not fit raises `error` as one line, with the nearest valid key."""
    try:
        return model.model_validate(content, context=context)
    except ValidationError as problem:
        raise explain(problem, model, where, error) from None


def explain(problem: ValidationError, model: type[BaseModel], where: Path | str, error: type[DsimError] = ScenarioError) -> DsimError:
    """The most telling of pydantic's complaints, as one line."""
    complaints = problem.errors(include_url=False)
    first = min(complaints, key=lambda e: (e["type"] != "extra_forbidden", complaints.index(e)))
    location = [str(part) for part in first["loc"]]
    kind, given = first["type"], first.get("input")
    owner = _model_at(model, location[:-1])
    key = ".".join(part for part, real in zip(location, _is_key(model, location), strict=True) if real)
    if kind == "extra_forbidden":
        fields = sorted(owner.model_fields) if owner else []
        near = difflib.get_close_matches(location[-1], fields, n=1, cutoff=0.5)
        remedy = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(fields)}"
        return error(f"unknown key '{location[-1]}'", where=where, key=key, remedy=remedy)
    if kind == "missing":
        return error("required key is missing", where=where, key=key, remedy="add it")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        known = [str(m.model_fields["kind"].default) for m in _models_at(model, location) if "kind" in m.model_fields]
        expected = ", ".join(known)
        tag = first.get("ctx", {}).get("tag")
        near = difflib.get_close_matches(str(tag), known, n=1, cutoff=0.5) if tag else []
        what = f"unknown kind '{tag}'" if tag is not None else "has no 'kind'"
        return error(what, where=where, key=key, remedy=f"did you mean '{near[0]}'?" if near else f"kinds: {expected or 'see docs/'}")
    message = _SHAPES.get(kind) or first["msg"].removeprefix("Value error, ")
    shown = repr(given) if not isinstance(given, dict | list) else None
    return error(message[0].lower() + message[1:] + (f" (got {shown})" if shown is not None else ""), where=where, key=key or None)


def _arguments(annotation: Any) -> list[type[BaseModel]]:
    """All the models an annotation may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return _arguments(annotation.__value__)
    return [found for part in typing.get_args(annotation) for found in _arguments(part)]


def _steps(model: type[BaseModel], location: list[str]) -> list[tuple[bool, list[type[BaseModel]]]]:
    """For each part of a pydantic location: is it a key or index of the file (not a union's tag), and the models it leads to."""
    here, ahead, out = [model], False, []
    for part in location:
        tagged = [m for m in here if m.model_fields.get("kind") and m.model_fields["kind"].default == part]
        fields = [found for m in here if part in m.model_fields for found in _arguments(m.model_fields[part].annotation)]
        named = any(part in m.model_fields for m in here)
        if ahead and tagged:
            here, ahead = tagged, False
            out.append((False, here))
            continue
        if ahead and not named and any(part == m.__name__ for m in here):
            out.append((False, here))
            continue
        if named:
            here = fields
        ahead = len(here) > 1 or part.isdigit() or named
        out.append((True, here))
    return out


def _is_key(model: type[BaseModel], location: list[str]) -> list[bool]:
    return [real for real, _ in _steps(model, location)]


def _models_at(model: type[BaseModel], location: list[str]) -> list[type[BaseModel]]:
    steps = _steps(model, location)
    return steps[-1][1] if steps else [model]


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    return next(iter(_models_at(model, location)), None)


def adapter(kind: Any) -> TypeAdapter[Any]:
    """A validator for something that is not itself a model, such as a tagged union."""
    return TypeAdapter(kind)
