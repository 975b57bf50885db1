"""Command-line options generated from pydantic models, so that no knob is written twice."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

SCALARS = (bool, int, float, str)
ORDERING_FIELDS = {"uses", "needs", "when_unavailable", "ungated"}


def option_parameters(model: type[BaseModel], left_out: set[str]) -> Iterator[inspect.Parameter]:
    """Yields a keyword parameter with a typer option for each scalar field of a model.

    A field that is a tuple of strings or numbers is an option that may be given several times.

    Every option's default is None, meaning "not given": the model supplies the default, which
    the help text shows.
    """
    for name, field in model.model_fields.items():
        several = _list_type(field.annotation)
        scalar: Any = several or _scalar_type(field.annotation)
        if name in left_out or scalar is None:
            continue
        flag = "--" + name.replace("_", "-")
        declaration = f"{flag}/--no-{flag[2:]}" if scalar is bool else flag
        text = field.description
        if several is not None:
            text = f"{text} Several: {flag} A {flag} B."
        option = typer.Option(declaration, help=text, show_default=_describe_default(field))
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[scalar | None, option],
        )


def with_parameters(
    function: Callable[..., None], extra: list[inspect.Parameter]
) -> Callable[..., None]:
    """Gives a function that takes `**fields` the named parameters that typer is to offer."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    first = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    last = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    parameters = [*first, *extra, *last]

    def command(**values: Any) -> None:
        function(**values)

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps the options that were given."""
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _list_type(annotation: Any) -> Any:
    """Returns the list type of a tuple of any number of scalars, None for anything else."""
    arguments = get_args(annotation)
    if get_origin(annotation) is not tuple or arguments[1:] != (Ellipsis,):
        return None
    item = _scalar_type(arguments[0])
    return None if item is None else list[item]  # type: ignore[valid-type]


def _scalar_type(annotation: Any) -> type | None:
    """Returns the plain type of a scalar field, None for anything nested."""
    origin = get_origin(annotation)
    if origin is Literal:
        kinds = {type(value) for value in get_args(annotation)}
        return kinds.pop() if len(kinds) == 1 else None
    if origin is Annotated:
        return _scalar_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not type(None)]
        return _scalar_type(inner[0]) if len(inner) == 1 else None
    return annotation if annotation in SCALARS else None


def _describe_default(field: FieldInfo) -> str | bool:
    if field.default is PydanticUndefined or field.default is None:
        return False
    if isinstance(field.default, tuple):
        return ", ".join(map(str, field.default)) or False
    allowed = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    choices = f"; one of {', '.join(map(str, allowed))}" if allowed else ""
    return f"{field.default}{choices}"
