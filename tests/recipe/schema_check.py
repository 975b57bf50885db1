"""The part of JSON Schema that the recipe's schema uses, checked the long way."""

import re
from collections.abc import Iterator
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
CHECKED = {
    "type", "const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "maxLength", "pattern", "minProperties", "required", "properties", "patternProperties",
    "additionalProperties", "propertyNames", "items", "minItems", "anyOf", "oneOf", "$ref",
}  # fmt: skip
SAYS_NOTHING = {"title", "description", "default", "discriminator", "$schema", "$defs"}


def conforms(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Tells whether a value keeps to a schema; a keyword that is not known here is an error."""
    unknown = set(schema) - CHECKED - SAYS_NOTHING
    assert not unknown, f"teach this checker {unknown}"
    if "$ref" in schema and not conforms(value, _resolve(schema["$ref"], root), root):
        return False
    return all(_keeps(value, schema)) and all(_parts_conform(value, schema, root))


def _resolve(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    definition: dict[str, Any] = root["$defs"][reference.removeprefix("#/$defs/")]
    return definition


def _keeps(value: Any, schema: dict[str, Any]) -> Iterator[bool]:
    """Yields the verdicts of keywords that look at the value alone."""
    if "type" in schema:
        yield _is_type(value, schema["type"])
    if "const" in schema:
        yield value == schema["const"] and type(value) is type(schema["const"])
    if "enum" in schema:
        yield any(value == one and type(value) is type(one) for one in schema["enum"])
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value >= schema.get("minimum", value)
        yield value <= schema.get("maximum", value)
        yield value > schema["exclusiveMinimum"] if "exclusiveMinimum" in schema else True
        yield value < schema["exclusiveMaximum"] if "exclusiveMaximum" in schema else True
    if isinstance(value, str):
        yield len(value) <= schema.get("maxLength", len(value))
        yield re.search(schema.get("pattern", ""), value) is not None
    if isinstance(value, list):
        yield len(value) >= schema.get("minItems", 0)
    if isinstance(value, dict):
        yield len(value) >= schema.get("minProperties", 0)
        yield set(schema.get("required", [])) <= set(value)


def _is_type(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])


def _parts_conform(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> Iterator[bool]:
    """Yields the verdicts of keywords that hold schemas of their own."""
    if "anyOf" in schema:
        yield any(conforms(value, one, root) for one in schema["anyOf"])
    if "oneOf" in schema:
        yield sum(conforms(value, one, root) for one in schema["oneOf"]) == 1
    if isinstance(value, list) and "items" in schema:
        yield from (conforms(item, schema["items"], root) for item in value)
    for key, item in value.items() if isinstance(value, dict) else ():
        yield conforms(key, schema.get("propertyNames", {}), root)
        yield from _property_conforms(key, item, schema, root)


def _property_conforms(
    key: str, item: Any, schema: dict[str, Any], root: dict[str, Any]
) -> Iterator[bool]:
    patterns = schema.get("patternProperties", {})
    matching = [patterns[pattern] for pattern in patterns if re.search(pattern, key)]
    if key in schema.get("properties", {}):
        matching.append(schema["properties"][key])
    other = schema.get("additionalProperties", True)
    if not matching and isinstance(other, bool):
        yield other
    yield from (
        conforms(item, one, root) for one in matching or [other] if one not in (True, False)
    )
