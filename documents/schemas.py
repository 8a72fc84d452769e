"""JSON Schemas of the msgspec types, as both documents have them."""

from collections.abc import Collection
from typing import Any

import msgspec

from protocol.inbound import schema_of_custom

Schema = dict[str, Any]


def schemas(types: Collection[Any], prefix: str = "", *, sent: bool) -> tuple[list[Schema], dict[str, Schema]]:
    """Return each type's schema, a reference where it has a name, and {name: schema} of all that they refer to.

    :param prefix: goes before each name, so that an inbound and an outbound type may be called the same.
    :param sent: whether it is the server that writes them: then a field with a default is always there.
    """
    template = f"#/components/schemas/{prefix}{{name}}"
    found, components = msgspec.json.schema_components(types, schema_hook=schema_of_custom, ref_template=template)
    more = {kind.__name__: kind.schema for kind in types if hasattr(kind, "schema")}
    named = {f"{prefix}{name}": _tidy(schema | more.get(name, {})) for name, schema in components.items()}
    if sent:
        for schema in named.values():
            _require_defaults(schema)
    return [_tidy(schema) for schema in found], named


def description(documented: Any) -> str:
    """Return a docstring as Markdown, in one line."""
    return " ".join((documented.__doc__ or "").replace("``", "`").split())


def parameters(query: type[msgspec.Struct]) -> list[tuple[str, Schema, bool]]:
    """Return (name, schema, required) of each parameter of a query; one that may be left out is never null."""
    _, components = schemas([query], sent=False)
    whole = components[query.__name__]
    return [(name, _without_null(each), name in whole["required"]) for name, each in whole["properties"].items()]


def _tidy(value: Any) -> Any:
    """Say it as JSON Schema's readers expect: Markdown, and patterns of ECMA 262.

    There ``$`` is the very end, and a lone surrogate, which is no character, is in no string.
    """
    if isinstance(value, list):
        return [_tidy(each) for each in value]
    if not isinstance(value, dict):
        return value
    tidy = {key: _tidy(each) for key, each in value.items()}
    if isinstance(tidy.get("description"), str):
        tidy["description"] = " ".join(tidy["description"].replace("``", "`").split())
    if isinstance(tidy.get("pattern"), str):
        tidy["pattern"] = tidy["pattern"].replace(r"(?!\n)", "").replace(r"\ud800-\udfff", "")
    return tidy


def _require_defaults(schema: Schema) -> None:
    """Of what the server writes, a field with a default is always there; one that may be missing has none."""
    properties = schema.get("properties", {})
    always = {*schema.get("required", ()), *(name for name, each in properties.items() if "default" in each)}
    for each in properties.values():
        each.pop("default", None)
    if always:
        schema["required"] = [name for name in properties if name in always]


def _without_null(schema: Schema) -> Schema:
    plain = {key: value for key, value in schema.items() if key != "anyOf" and (key, value) != ("default", None)}
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if "enum" in plain:
        plain["enum"] = [value for value in plain["enum"] if value is not None]
    return plain | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
