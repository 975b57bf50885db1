"""The recipe reference in Markdown: `python -m llmopt.recipe.reference` prints it."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from llmopt.data.dataset_spec import DataRequirements, DatasetSpec, MixPart
from llmopt.recipe.recipe import Recipe, SourceSpec
from llmopt.serving.target import Target
from llmopt.steps.base import StepBase
from llmopt.steps.eval_gate import Requirement
from llmopt.steps.expert_fields import ExpertFields
from llmopt.steps.package_triton import RateLimiter
from llmopt.steps.union import step_types

INTRODUCTION = """\
# Recipe reference

Written by `make reference` from the models in the code; do not edit. `llmopt schema` prints the
same as JSON Schema for editors. A value may be `${params.NAME}`, or `${env.NAME}` if `env` lists
the variable; `$${` stands for a literal `${`.
"""
COMMON = ("needs", "when_unavailable", "ungated")


def write_reference() -> str:
    """Returns the whole page."""
    parts = [INTRODUCTION]
    parts += _section("A recipe", Recipe)
    parts += _section("sources.NAME", SourceSpec)
    parts += _section("datasets.NAME", DatasetSpec)
    parts += _section("datasets.NAME.mix", MixPart)
    parts += _section("datasets.NAME.require", DataRequirements)
    parts += _section("target", Target)
    parts.append("\n## Fields of every step\n\n" + _table(StepBase, only=COMMON))
    for name, step in step_types().items():
        parts.append(f"\n## `{name}`\n\n{inspect.getdoc(step)}\n\n{_table(step, without=COMMON)}")
    parts += _section("experts of `quantize.gptq`", ExpertFields)
    parts += _section("require.METRIC of `eval.gate`", Requirement)
    parts += _section("rate_limiter of `package.triton`", RateLimiter)
    return "".join(parts)


def _section(title: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {title}\n\n{inspect.getdoc(model)}\n\n{_table(model)}"


def _table(
    model: type[BaseModel], only: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    inputs = model.input_fields() if issubclass(model, StepBase) else {}
    for name, field in model.model_fields.items():
        if (only and name not in only) or name in without or name == "uses":
            continue
        kind = _type(field.annotation)
        if name in inputs:
            each = "list of " if kind.startswith("list of ") else ""
            kind = each + " or ".join(inputs[name].accepts)
        lines.append(f"| `{name}` | {kind} | {_default(field)} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    if arguments and all(not isinstance(a, type) and not get_args(a) for a in arguments):
        return ", ".join(f"`{a}`" for a in arguments if a is not None)
    if isinstance(annotation, type) and not arguments:
        return "step" if issubclass(annotation, StepBase) else annotation.__name__
    skipped = (type(None), Ellipsis)
    readable = [_type(a) for a in arguments if a not in skipped and not isinstance(a, FieldInfo)]
    origin = getattr(annotation, "__origin__", None)
    if origin is dict:
        return f"mapping of {readable[-1] or 'values'}"
    if origin is tuple:
        return f"list of {readable[0]}"
    return " or ".join(dict.fromkeys(readable))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "" if field.default_factory in (None, dict) else "see meaning"
    if field.default in (None, ()):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    sys.stdout.write(write_reference())
