"""What is laid over a recipe before it is validated: variants, `--set`, and `${…}` values."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmopt.artifacts.secrets import is_secret_name
from llmopt.errors import RecipeError
from llmopt.recipe.yaml_tree import KeyPath, YamlTree, parse_scalar

REFERENCE = re.compile(r"\$\{([^}]*)\}")
MIN_PATH_LIKENESS = 0.85  # of whole paths, which share much of their length anyway
MAX_PARAM_LENGTH = 4096  # a long value used often would grow the recipe without bound
WHOLE_REFERENCE = re.compile(r"\$\{([^}]*)\}\Z")


def apply_variant(tree: YamlTree, name: str) -> None:
    """Merges a variant over the recipe: mappings key by key, all else replaced.

    Raises:
        RecipeError: There is no such variant.
    """
    variants = tree.data.get("variants") or {}
    if not isinstance(variants, dict) or name not in variants:
        known = sorted(variants) if isinstance(variants, dict) else []
        raise RecipeError(
            f"{tree.place_of(('variants',))}: there is no variant {name!r}" + suggest(name, known)
        )
    patch = variants[name]
    if isinstance(patch, dict):
        _merge(tree, tree.data, patch, (), ("variants", name))


def _merge(
    tree: YamlTree, base: dict[str, Any], patch: dict[str, Any], path: KeyPath, origin: KeyPath
) -> None:
    for key, value in patch.items():
        here, there = (*path, key), (*origin, key)
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(tree, base[key], value, here, there)
            continue
        base[key] = value
        for known in [place for place in tree.places if place[: len(there)] == there]:
            tree.places[(*here, *known[len(there) :])] = tree.places[known]


def apply_overrides(tree: YamlTree, overrides: Iterable[str]) -> None:
    """Lays `a.b=value` settings over the recipe; the value is read as YAML.

    Raises:
        RecipeError: No `=`, or a path whose parent is not in the recipe.
    """
    for override in overrides:
        place = f"--set {override}"
        dotted, equals, text = override.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys):
            raise RecipeError(f"{place}: expected KEY.KEY=VALUE, such as steps.quantize.bits=8")
        _set_value(tree, keys, parse_scalar(text, place), place)


def _set_value(tree: YamlTree, keys: list[str], value: Any, place: str) -> None:
    node: Any = tree.data
    for depth, key in enumerate(keys[:-1]):
        if not isinstance(node, dict) or key not in node:
            parent = ".".join(keys[:depth]) or "the recipe"
            rest = "".join(f"{{{name}: " for name in keys[depth + 1 :])
            raise RecipeError(
                f"{place}: {parent} has no {key!r}" + suggest_path(tree, keys, node),
                remedy=f"to add a whole mapping: --set '{'.'.join(keys[: depth + 1])}="
                f"{rest}VALUE{'}' * (len(keys) - depth - 1)}'",
            )
        node = node[key]
    if not isinstance(node, dict):
        raise RecipeError(
            f"{place}: {'.'.join(keys[:-1])} is no mapping, it can't hold {keys[-1]!r}"
        )
    if keys[:-1] == ["params"] and keys[-1] not in node:  # else nothing would read it
        raise RecipeError(
            f"{place}: there is no parameter {keys[-1]!r}" + suggest(keys[-1], node),
            remedy="write it under params, with a default",
        )
    node[keys[-1]] = value
    for known_path in [path for path in tree.places if path[: len(keys)] == tuple(keys)]:
        del tree.places[known_path]
    tree.places[tuple(keys)] = place


def interpolate(tree: YamlTree) -> None:
    """Replaces `${params.x}` and `${env.X}`; a whole-value reference keeps its type.

    `$${` stands for a literal `${`. An environment variable must be listed under `env:`.

    Raises:
        RecipeError: An unknown reference, or a variable that is not listed, not set, or secret.
    """
    params = tree.data.get("params") or {}
    allowed = tree.data.get("env") or []
    if not isinstance(params, dict) or not isinstance(allowed, list):
        return  # the schema will say what is wrong
    for name in allowed:
        if is_secret_name(str(name)):
            place = tree.place_of(("env",))
            raise RecipeError(f"{place}: {name} looks like a secret; recipes may not read it")
    scope = _Scope(tree, params, [str(name) for name in allowed])
    for key, value in tree.data.items():
        if key not in ("params", "variants", "env"):
            tree.data[key] = scope.replace(value, (key,))


class _Scope:
    """Looks references up."""

    def __init__(self, tree: YamlTree, params: Mapping[str, Any], allowed: list[str]) -> None:
        self._tree = tree
        self._params = params
        self._allowed = allowed

    def replace(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: self.replace(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.replace(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = WHOLE_REFERENCE.match(value)
        if whole:
            return self._look_up(whole.group(1), path)
        parts = value.split("$${")
        replaced = [REFERENCE.sub(lambda m: str(self._look_up(m.group(1), path)), p) for p in parts]
        return "${".join(replaced)

    def _look_up(self, reference: str, path: KeyPath) -> Any:
        place = self._tree.place_of(path)
        scope, _, name = reference.strip().partition(".")
        if scope == "params":
            if name not in self._params:
                raise RecipeError(
                    f"{place}: there is no parameter {name!r}" + suggest(name, list(self._params))
                )
            return self._read_param(name)
        if scope != "env":
            raise RecipeError(
                f"{place}: ${{{reference}}} is not known; "
                "known are ${params.NAME} and ${env.NAME}"
            )
        if name not in self._allowed:
            raise RecipeError(
                f"{place}: the recipe does not allow environment variable {name!r}",
                remedy=f"list it at the recipe's top: `env: [{name}]`",
            )
        if name not in os.environ:
            raise RecipeError(f"{place}: environment variable {name} is not set")
        return os.environ[name]

    def _read_param(self, name: str) -> Any:
        value = self._params[name]
        if isinstance(value, dict | list) or len(str(value)) > MAX_PARAM_LENGTH:
            place = self._tree.place_of(("params", name))
            raise RecipeError(
                f"{place}: parameter {name!r} must be one value of at most {MAX_PARAM_LENGTH} "
                "characters"
            )
        return value


def suggest_path(tree: YamlTree, keys: Sequence[str], node: Any = None) -> str:
    """Returns `; did you mean a.b.c?` of the recipe's own keys, else what is known in a mapping.

    Args:
        tree: The recipe.
        keys: What was written.
        node: The mapping that lacks one of them.
    """
    written = ".".join(keys)
    known = [
        ".".join(map(str, path))
        for path in tree.places
        if path and path[0] != "variants" and all(isinstance(key, str) for key in path)
    ]
    # `bits` and `quantize.bits` are steps.quantize.bits with its beginning left out.
    ends = [path for path in known if path.endswith(f".{written}")]
    close = ends or difflib.get_close_matches(written, known, n=1, cutoff=MIN_PATH_LIKENESS)
    if close:
        return f"; did you mean {close[0]!r}?"
    return suggest("", sorted(node)) if isinstance(node, dict) else ""


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean X?` or a list of what is known, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f" (known: {', '.join(known)})" if known else ""
