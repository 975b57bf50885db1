"""Reads YAML into plain data that remembers where each value stood.

Only JSON-like data passes: mappings with string keys, lists, scalars. Aliases are allowed
within a budget of expanded values, so a "billion laughs" document is refused before it grows.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from llmopt.errors import RecipeError

MAX_FILE_BYTES = 1_000_000
MAX_VALUES = 20_000
MAX_DEPTH = 40
TAG_PREFIX = "tag:yaml.org,2002:"
TREE_TAGS = {
    f"{TAG_PREFIX}{name}"
    for name in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
}

# YAML 1.2's words; a %YAML 1.1 directive or an explicit tag lets others through as far as here.
WORDS: dict[str, dict[str, bool | None]] = {
    "null": {"": None, "~": None, "null": None},
    "bool": {"true": True, "false": False},
}

KeyPath = tuple[str | int, ...]


@dataclass
class YamlTree:
    """Plain data and the place of every value.

    Attributes:
        data: Mappings, lists and scalars.
        places: Path of keys → `file:line:column`, or the override that set it.
        source: What the places begin with.
        is_by_hand: Whether options of a command stand for it: places are then options.
    """

    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)
    source: str = "recipe"
    is_by_hand: bool = False

    def place_of(self, path: KeyPath) -> str:
        """Returns the place of a value, or of the nearest one around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.source


def read_yaml(path: Path) -> YamlTree:
    """Reads a YAML file whose top is a mapping.

    Raises:
        RecipeError: No such file, too large, not UTF-8, not YAML, or more than plain data.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"recipe {path} does not exist") from None
    except IsADirectoryError:
        raise RecipeError(f"recipe {path} is a folder, not a file") from None
    except OSError as error:
        raise RecipeError(f"recipe {path} can't be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise RecipeError(f"recipe {path} has {len(raw)} bytes; allowed are {MAX_FILE_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"recipe {path} is not UTF-8 (byte offset {error.start})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> YamlTree:
    """Parses YAML text whose top is a mapping; `source` stands before line and column."""
    node = _compose(text, source)
    if not isinstance(node, MappingNode):
        raise RecipeError(f"{source}: a recipe is a mapping of keys, this is not")
    tree = YamlTree(data={}, source=source)
    tree.data = _Reader(tree, source).read(node, ())
    return tree


def parse_scalar(text: str, source: str) -> Any:
    """Parses one value as YAML would read it (`8` → int, `true` → bool, `[1, 2]` → list)."""
    node = _compose(text, source)
    if node is None:
        return None
    return _Reader(YamlTree(data={}, source=source), source).read(node, ())


def _compose(text: str, source: str) -> Node | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except ReusedAnchorWarning as error:
        raise RecipeError(
            f"{source}: not valid YAML: {str(error).strip().splitlines()[0]}"
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise RecipeError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from None
    return node


class _Reader:
    """Turns nodes into data, counting values and refusing what is not plain."""

    def __init__(self, tree: YamlTree, source: str) -> None:
        self._tree = tree
        self._source = source
        self._num_values = 0

    def read(self, node: Node, path: KeyPath) -> Any:
        place = self._place(node)
        self._tree.places[path] = place
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise RecipeError(
                f"{place}: the recipe holds more than {MAX_VALUES} values when its aliases "
                "are expanded"
            )
        if len(path) > MAX_DEPTH:
            raise RecipeError(
                f"{place}: nested more than {MAX_DEPTH} deep (does an alias contain itself?)"
            )
        tag = str(node.tag)
        if tag not in TREE_TAGS:
            tag = tag.removeprefix(TAG_PREFIX)
            raise RecipeError(f"{place}: the YAML tag or merge key {tag!r} is not allowed")
        if isinstance(node, MappingNode):
            return self._read_mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._read_scalar(node)

    def _read_mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._read_key(key_node)
            if key in mapping:
                raise RecipeError(f"{self._place(key_node)}: key {key!r} occurs twice")
            mapping[key] = self.read(value_node, (*path, key))
            # Errors about a key should point at the key, not at what follows it.
            self._tree.places[(*path, key)] = self._place(key_node)
        return mapping

    def _read_key(self, node: Node) -> str:
        place = self._place(node)
        if not isinstance(node, ScalarNode):
            raise RecipeError(f"{place}: a key must be a plain word")
        if node.tag == f"{TAG_PREFIX}merge":
            raise RecipeError(f"{place}: merge keys (<<) are not supported; write the keys out")
        return str(node.value)

    def _read_scalar(self, node: Node) -> Any:
        text = str(node.value)
        kind = str(node.tag).removeprefix(TAG_PREFIX)
        try:
            if kind in WORDS:
                return self._read_word(node, text, WORDS[kind])
            if kind == "int":
                return int(text.replace("_", ""), 0 if text.lstrip("+-")[:1] == "0" else 10)
            if kind == "float":
                return self._read_float(node, text)
        except ValueError:
            raise RecipeError(f"{self._place(node)}: {text!r} is not a number") from None
        return text

    def _read_word(self, node: Node, text: str, words: Mapping[str, bool | None]) -> bool | None:
        if text.lower() not in words:
            allowed = ", ".join(filter(None, words))
            raise RecipeError(f"{self._place(node)}: {text!r} is none of {allowed}")
        return words[text.lower()]

    def _read_float(self, node: Node, text: str) -> float:
        value = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(value):
            raise RecipeError(f"{self._place(node)}: {text!r} is not a finite number")
        return value

    def _place(self, node: Node) -> str:
        mark = node.start_mark
        return f"{self._source}:{mark.line + 1}:{mark.column + 1}"
