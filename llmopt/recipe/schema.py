"""The JSON Schema of recipes, for editors: generated from the models, never written twice."""

from typing import Any

from llmopt.recipe.recipe import Recipe

REFERENCE = {"type": "string", "pattern": r"\$\{[^}]+\}", "description": "${params.NAME}"}
INTERPOLATED = {"integer", "number", "boolean"}


def build_schema() -> dict[str, Any]:
    """Returns the schema; a value that is no string may also be a `${…}` reference."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "llmopt recipe, version 1"
    source = schema["$defs"]["SourceSpec"]
    schema["$defs"]["SourceSpec"] = {
        "anyOf": [
            {"type": "string", "description": "./folder, org/model or org/model@revision"},
            source,
        ]
    }
    for section in schema["properties"].values():
        if "patternProperties" in section:
            section["additionalProperties"] = False  # else names of another form pass unchecked
    for definition in (*schema["$defs"].values(), source):
        for name, field in definition.get("properties", {}).items():
            definition["properties"][name] = _allow_reference(field)
    return schema


def _allow_reference(field: dict[str, Any]) -> dict[str, Any]:
    kinds = [field, *field.get("anyOf", [])]
    constants = [*field.get("enum", []), *([field["const"]] if "const" in field else [])]
    is_interpolated = any(kind.get("type") in INTERPOLATED for kind in kinds) or any(
        not isinstance(value, str) for value in constants
    )
    if not is_interpolated:
        return field
    outer: dict[str, Any] = {
        key: field[key] for key in ("description", "default", "title") if key in field
    }
    inner = {key: value for key, value in field.items() if key not in (*outer, "anyOf")}
    kinds = [*field.get("anyOf", []), *([inner] if inner else []), REFERENCE]
    return {**outer, "anyOf": kinds}
