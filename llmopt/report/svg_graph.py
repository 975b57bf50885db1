"""Draws the graph of what was made from what, as boxes and curves."""

from collections.abc import Mapping

from llmopt.report.graph import Graph, Node
from llmopt.report.svg import Element, Svg, add, finish, start

BOX_WIDTH, BOX_HEIGHT = 176, 46
GAP_X, GAP_Y = 56, 18
MARGIN = 2
MAX_LETTERS = 24
Place = tuple[float, float]
Slot = tuple[str, int]


def draw_graph(graph: Graph) -> Svg:
    """Draws every node as a box; an edge that passes a column gets a place of its own in it."""
    columns = _fill_slots(graph)
    rows = max(len(column) for column in columns)
    places = _place_slots(columns, rows)
    width = len(columns) * (BOX_WIDTH + GAP_X) - GAP_X + 2 * MARGIN
    height = rows * (BOX_HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    root = start(
        "What was made from what",
        view_box=f"0 0 {width} {height}",
        width=width,
        height=height,
        class_="graph",
    )
    depth = {node.key: index for index, column in enumerate(graph.columns) for node in column}
    for edge in graph.edges:
        _draw_edge(root, edge, depth, places, graph.fields[edge])
    for index, column in enumerate(graph.columns):
        for node in column:
            _draw_node(root, node, places[node.key, index])
    return finish(root)


def _fill_slots(graph: Graph) -> list[list[Slot]]:
    """Adds to each column a slot per node whose edges pass it, then orders by what stands left."""
    depth = {node.key: index for index, column in enumerate(graph.columns) for node in column}
    columns: list[list[Slot]] = [
        [(node.key, index) for node in column] for index, column in enumerate(graph.columns)
    ]
    for source, target in graph.edges:
        for between in range(depth[source] + 1, depth[target]):
            if (source, between) not in columns[between]:
                columns[between].append((source, between))
    before: dict[str, list[str]] = {}
    for source, target in graph.edges:
        before.setdefault(target, []).append(source)
    for index in range(1, len(columns)):
        rank = {key: place for place, (key, _) in enumerate(columns[index - 1])}
        columns[index].sort(key=lambda slot: _mean_rank(slot[0], rank, before))
    return columns


def _mean_rank(key: str, rank: Mapping[str, int], before: Mapping[str, list[str]]) -> float:
    if key in rank:  # an edge that passes goes straight on
        return rank[key]
    known = [rank[source] for source in before.get(key, ()) if source in rank]
    return sum(known) / len(known) if known else 0


def _place_slots(columns: list[list[Slot]], rows: int) -> dict[Slot, Place]:
    """Returns the upper left corner of each slot; columns are centred."""
    places: dict[Slot, Place] = {}
    for index, column in enumerate(columns):
        offset = (rows - len(column)) / 2
        for row, slot in enumerate(column):
            x = MARGIN + index * (BOX_WIDTH + GAP_X)
            places[slot] = (x, MARGIN + (row + offset) * (BOX_HEIGHT + GAP_Y))
    return places


def _draw_edge(
    root: Element,
    edge: tuple[str, str],
    depth: Mapping[str, int],
    places: Mapping[Slot, Place],
    field: str,
) -> None:
    source, target = edge
    stops = [places[source, index] for index in range(depth[source], depth[target])]
    stops.append(places[target, depth[target]])
    x, y = stops[0][0] + BOX_WIDTH, stops[0][1] + BOX_HEIGHT / 2
    path = f"M{x:.1f},{y:.1f}"
    for stop_x, stop_y in stops[1:]:
        to_y = stop_y + BOX_HEIGHT / 2
        middle = (x + stop_x) / 2
        path += f"C{middle:.1f},{y:.1f} {middle:.1f},{to_y:.1f} {stop_x:.1f},{to_y:.1f}"
        x, y = stop_x + BOX_WIDTH, to_y
        if (stop_x, stop_y) != stops[-1]:
            path += f"H{x:.1f}"
    line = add(root, "path", d=path, class_="edge")
    add(line, "title", field)


def _draw_node(root: Element, node: Node, place: Place) -> None:
    x, y = place
    group = add(root, "g", class_="node step" if node.is_step else "node")
    add(group, "title", f"{node.label}: {node.detail} {node.key[:12]}")
    add(group, "rect", x=x, y=y, width=BOX_WIDTH, height=BOX_HEIGHT, rx=6)
    add(group, "text", _shorten(node.label), x=x + 12, y=y + 19, class_="name")
    add(group, "text", _shorten(node.detail), x=x + 12, y=y + 35, class_="detail")


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 1] + "…"
