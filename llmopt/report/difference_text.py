"""A difference in words for a terminal, and as data for a program."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from llmopt.artifacts.manifest import Manifest
from llmopt.report.difference import Change, Difference, NumberChange
from llmopt.report.figures import BY_CATEGORY, format_figure, format_setting

MAX_LAYERS = 10
DIGEST_LETTERS = 12


def write_text(difference: Difference) -> str:
    """Returns the difference as lines; sections in which nothing differs are left out."""
    lines = [*_write_heads(difference)]
    changes = {
        "made": difference.origins,
        "settings": difference.settings,
        "inputs": difference.inputs,
        "tools": difference.tools,
    }
    for title, section in changes.items():
        lines += _write_section(title, [_write_change(*item) for item in section.items()])
    lines += _write_section("sizes and costs", _write_numbers(difference.sizes))
    shown = {n: c for n, c in difference.metrics.items() if BY_CATEGORY not in n.split(".")}
    lines += _write_section("metrics", _write_numbers(shown))
    lines += _write_section("layers", list(_write_layers(difference)))
    lines += _write_section("files", [_write_file(*item) for item in difference.files.items()])
    return "\n".join(lines)


def as_data(difference: Difference) -> dict[str, Any]:
    """Returns the difference as JSON-ready data, categories and every layer included."""
    regressed = difference.regressed
    return {
        "a": _describe(difference.before),
        "b": _describe(difference.after),
        "same_work": difference.same_work,
        "same_bytes": difference.same_bytes,
        "made": _changes_as_data(difference.origins),
        "settings": _changes_as_data(difference.settings),
        "inputs": _changes_as_data(difference.inputs),
        "tools": _changes_as_data(difference.tools),
        "sizes": _numbers_as_data(difference.sizes),
        "metrics": _numbers_as_data(difference.metrics),
        "layers": {
            "compared": len(difference.layers),
            "regressed": len(regressed),
            "biggest_drop_db": round(regressed[0].drop_db, 4) if regressed else None,
            "biggest_drop_layer": regressed[0].layer if regressed else None,
            "only_a": list(difference.only_before),
            "only_b": list(difference.only_after),
            "snr_db": [
                {"layer": c.layer, "a": c.before_db, "b": c.after_db, "drop": round(c.drop_db, 4)}
                for c in difference.layers
            ],
        },
        "files": {p: {"a": c.before, "b": c.after} for p, c in difference.files.items()},
    }


def _describe(manifest: Manifest) -> dict[str, JsonValue]:
    return {
        "kind": manifest.kind,
        "recipe": manifest.recipe,
        "step": manifest.step.id,
        "identity": manifest.identity,
        "content_digest": manifest.content_digest,
        "created": manifest.created,
    }


def _write_heads(difference: Difference) -> Iterator[str]:
    for letter, manifest in (("A", difference.before), ("B", difference.after)):
        of = f"{manifest.recipe} / " if manifest.recipe else ""
        made = manifest.created[:16].replace("T", " ")
        identity = manifest.identity[:DIGEST_LETTERS]
        yield f"{letter}  {of}{manifest.step.id} ({manifest.step.uses}), {identity}, {made}"
    if difference.before.kind != difference.after.kind:
        kinds = f"{difference.before.kind} and {difference.after.kind}"
        yield f"kinds differ ({kinds}): only what both have can be compared"
    if difference.same_work:
        yield "the same work: equal settings, inputs and versions"
    if difference.same_bytes:
        yield "the same files, byte by byte"


def _write_section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def _write_change(name: str, change: Change) -> str:
    before, after = (_shorten(name, value) for value in (change.before, change.after))
    return f"{name}: {before} → {after}"


def _shorten(name: str, value: JsonValue) -> str:
    if name.endswith(".digest") and isinstance(value, str):
        return value[:DIGEST_LETTERS]
    return "–" if value is None or value == "" else format_setting(value)


def _write_numbers(changes: Mapping[str, NumberChange]) -> list[str]:
    rows = []
    for name, change in changes.items():
        sides = [
            "–" if value is None else format_figure(name, value)
            for value in (change.before, change.after)
        ]
        moved = ""
        if change.increase and change.increase_pct is not None:
            moved = f"{change.increase_pct:+.2f} %"
        elif change.increase == 0:
            moved = "="
        rows.append((name, *sides, moved))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return [
        f"{name:<{widths[0]}}  {a:>{widths[1]}} → {b:>{widths[2]}}  {moved:>{widths[3]}}".rstrip()
        for name, a, b, moved in rows
    ]


def _write_layers(difference: Difference) -> Iterator[str]:
    for names, where in ((difference.only_before, "A"), (difference.only_after, "B")):
        if names:
            yield f"{len(names)} in {where} alone: {names[0]}{', …' if len(names) > 1 else ''}"
    if not difference.layers:
        return
    regressed = difference.regressed
    count = f"SNR is lower in {len(regressed)} of {len(difference.layers)} layers"
    yield f"{count}, by up to {regressed[0].drop_db:.2f} dB" if regressed else count
    width = max((len(change.layer) for change in regressed[:MAX_LAYERS]), default=0)
    for change in regressed[:MAX_LAYERS]:
        sides = f"{change.before_db:6.2f} → {change.after_db:6.2f} dB"
        yield f"{change.layer:<{width}}  {sides}  {-change.drop_db:+.2f} dB"
    if len(regressed) > MAX_LAYERS:
        yield f"and {len(regressed) - MAX_LAYERS} more (--json lists all)"


def _write_file(path: str, change: NumberChange) -> str:
    if change.before is None:
        return f"+ {path} ({format_figure('size_bytes', change.after or 0)})"
    size = format_figure("size_bytes", change.before)
    if change.after is None:
        return f"- {path} ({size})"
    return f"~ {path} ({size} → {format_figure('size_bytes', change.after)})"


def _changes_as_data(changes: Mapping[str, Change]) -> dict[str, Any]:
    return {name: {"a": change.before, "b": change.after} for name, change in changes.items()}


def _numbers_as_data(changes: Mapping[str, NumberChange]) -> dict[str, Any]:
    return {
        name: {
            "a": change.before,
            "b": change.after,
            "increase": change.increase,
            "increase_pct": change.increase_pct,
        }
        for name, change in changes.items()
    }
