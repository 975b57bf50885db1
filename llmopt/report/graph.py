"""The graph of a report: what was made from what, laid out in columns from left to right."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmopt.artifacts.artifact import Artifact


@dataclass(frozen=True)
class Node:
    """A source, a data set or a step.

    Attributes:
        key: Its digest or identity.
        label: Its name in the recipe.
        detail: The step's type, or what it is.
        is_step: Whether a step made it that the report tells of.
    """

    key: str
    label: str
    detail: str
    is_step: bool


@dataclass(frozen=True)
class Graph:
    """Nodes in columns; `edges` are (from, to) keys, `fields` what each is to the step."""

    columns: tuple[tuple[Node, ...], ...]
    edges: tuple[tuple[str, str], ...]
    fields: Mapping[tuple[str, str], str]


def build_graph(artifacts: Iterable[Artifact]) -> Graph:
    """Builds the graph of artifacts that stand in the order in which they were made."""
    nodes: dict[str, Node] = {}
    level: dict[str, int] = {}
    fields: dict[tuple[str, str], str] = {}
    for artifact in artifacts:
        manifest = artifact.manifest
        for field, given in manifest.inputs.items():
            if given.digest not in nodes:
                detail = given.kind.replace("_", " ")
                nodes[given.digest] = Node(given.digest, given.name, detail, is_step=False)
                level[given.digest] = 0
            edge = (given.digest, manifest.identity)
            fields[edge] = f"{fields[edge]}, {field}" if edge in fields else field
        key = manifest.identity
        nodes[key] = Node(key, manifest.step.id, manifest.step.uses, is_step=True)
        level[key] = 1 + max((level[g.digest] for g in manifest.inputs.values()), default=-1)
    columns = tuple(
        tuple(node for key, node in nodes.items() if level[key] == depth)
        for depth in range(max(level.values(), default=-1) + 1)
    )
    return Graph(columns, tuple(fields), fields)
