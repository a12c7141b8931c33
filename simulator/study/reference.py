"""Every key of a scenario or plan file, from the models that read them: JSON Schema for editors, tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from simulator.quantities import spoken

What = Literal["scenario", "plan"]


def json_schema(what: What) -> dict[str, Any]:
    """JSON Schema (2020-12) of a file."""
    from simulator.study.planning.question import PlanFile
    from simulator.study.run.scenario import Scenario

    model = Scenario if what == "scenario" else PlanFile
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | model.model_json_schema()


def reference(what: What) -> str:
    """Every key with its type and default as Markdown, one table per part."""
    schema = json_schema(what)
    parts = schema["$defs"]
    made = f"Made by `dsim schema {what} --format markdown` from the models that read the file; do not edit by hand."
    lines = [f"# Every key of a {what}", "", made, "", *_part(what.capitalize(), schema, parts)]
    for name in sorted(parts):
        if "properties" in parts[name]:
            lines += _part(name, parts[name], parts)
    return "\n".join(lines).rstrip() + "\n"


def _part(name: str, schema: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    """Heading, description and keys of a part."""
    description = " ".join((schema.get("description") or "").split())
    lines = [f"## {name}", "", *([description, ""] if description else []), "| key | type | default |", "|---|---|---|"]
    required = set(schema.get("required", []))
    for key, field in schema["properties"].items():
        default = "required" if key in required else _shown(field.get("default"))
        lines.append(f"| `{key}` | {_type(field, parts)} | {default} |")
    return [*lines, ""]


def _type(field: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """A field's type in words, with links to other parts."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})" if "properties" in parts[name] else _type(parts[name], parts)
    if "const" in field or "enum" in field:
        return ", ".join(f"`{v}`" for v in field.get("enum", [field.get("const")]))
    for union in ("anyOf", "oneOf"):
        if union in field:
            kinds = [_type(f, parts) for f in field[union] if f.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    kind = str(field.get("type"))
    if kind == "array":
        inner = field.get("items") or (field.get("prefixItems") or [{}])[0]
        return f"list of {_type(inner, parts)}" if isinstance(inner, Mapping) and inner else "list"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_type(inner, parts)}" if isinstance(inner, Mapping) else "mapping"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(kind, kind)
    bounds = f" {spoken(field['minimum'])} to {spoken(field['maximum'])}" if "minimum" in field else ""
    return " ".join([words + bounds, *([field["unit"]] if "unit" in field else [])])


def _shown(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return ""
    return f"`{value}`" if not isinstance(value, bool) else f"`{str(value).lower()}`"
