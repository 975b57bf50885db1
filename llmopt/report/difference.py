"""What two artifacts differ in: settings, inputs, tools, sizes, metrics, layers, files."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from llmopt.artifacts.manifest import LayerError, Manifest
from llmopt.report.figures import flatten_numbers, flatten_settings


@dataclass(frozen=True)
class Change:
    """One value on both sides; None where a side lacks it."""

    before: JsonValue
    after: JsonValue


@dataclass(frozen=True)
class NumberChange:
    """One number on both sides; None where a side lacks it."""

    before: float | None
    after: float | None

    @property
    def increase(self) -> float | None:
        """How much the second is above the first."""
        if self.before is None or self.after is None:
            return None
        return self.after - self.before

    @property
    def increase_pct(self) -> float | None:
        """The increase in percent of the first; None where that is 0."""
        if self.increase is None or not self.before:
            return None
        return 100 * self.increase / abs(self.before)


@dataclass(frozen=True)
class LayerChange:
    """One layer's SNR in both, in decibels."""

    layer: str
    before_db: float
    after_db: float

    @property
    def drop_db(self) -> float:
        """How much worse the second is; below 0 where it is better."""
        return self.before_db - self.after_db


@dataclass(frozen=True)
class Difference:
    """All that two artifacts differ in; what both have alike is left out but for numbers.

    Attributes:
        before: The first artifact's manifest.
        after: The second's.
        origins: What they are and how they were made: kind, recipe, step.
        settings: Dotted setting → its change.
        inputs: Dotted field of an input → its change.
        tools: Version of a library, or what of the machine → its change.
        sizes: Bytes of all files, seconds, peak memory.
        metrics: Dotted metric → its numbers, also where they are equal.
        layers: The layers whose SNR both know, the largest drop first.
        only_before: Layers that the first alone has.
        only_after: Layers that the second alone has.
        files: File → its size on both sides, where its contents differ.
    """

    before: Manifest
    after: Manifest
    origins: Mapping[str, Change]
    settings: Mapping[str, Change]
    inputs: Mapping[str, Change]
    tools: Mapping[str, Change]
    sizes: Mapping[str, NumberChange]
    metrics: Mapping[str, NumberChange]
    layers: tuple[LayerChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    files: Mapping[str, NumberChange]

    @property
    def same_work(self) -> bool:
        """Whether both were made from the same inputs by the same settings and versions."""
        return self.before.identity == self.after.identity

    @property
    def same_bytes(self) -> bool:
        """Whether both hold the same files."""
        return self.before.content_digest == self.after.content_digest

    @property
    def regressed(self) -> tuple[LayerChange, ...]:
        """The layers that got worse, the worst first."""
        return tuple(layer for layer in self.layers if layer.drop_db > 0)


def compare_manifests(before: Manifest, after: Manifest) -> Difference:
    """Compares two artifacts by what their manifests say."""
    names = {error.layer for error in before.layers}, {error.layer for error in after.layers}
    return Difference(
        before=before,
        after=after,
        origins=_compare(_describe_origin(before), _describe_origin(after)),
        settings=_compare(
            flatten_settings(before.step.settings), flatten_settings(after.step.settings)
        ),
        inputs=_compare(_describe_inputs(before), _describe_inputs(after)),
        tools=_compare(
            {**before.tools, **_prefix("machine", before.machine)},
            {**after.tools, **_prefix("machine", after.machine)},
        ),
        sizes=_compare_numbers(_measure_sizes(before), _measure_sizes(after)),
        metrics=_compare_numbers(_list_metrics(before), _list_metrics(after)),
        layers=_compare_layers(before.layers, after.layers),
        only_before=tuple(sorted(names[0] - names[1])),
        only_after=tuple(sorted(names[1] - names[0])),
        files=_compare_files(before, after),
    )


def _compare(before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]) -> dict[str, Change]:
    return {
        name: Change(before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    }


def _compare_numbers(
    before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, NumberChange]:
    return {name: NumberChange(before.get(name), after.get(name)) for name in {**before, **after}}


def _describe_origin(manifest: Manifest) -> dict[str, JsonValue]:
    step = manifest.step
    return {
        "kind": manifest.kind,
        "recipe": manifest.recipe,
        "step": step.id,
        "uses": step.uses,
        "step version": step.version,
        "overrides": list(step.overrides),
    }


def _describe_inputs(manifest: Manifest) -> dict[str, JsonValue]:
    return {
        f"{field}.{key}": value
        for field, given in manifest.inputs.items()
        for key, value in given.model_dump().items()
    }


def _prefix(name: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{name}.{key}": value for key, value in values.items()}


def _measure_sizes(manifest: Manifest) -> dict[str, float]:
    sizes: dict[str, float] = {"files_bytes": sum(entry.size for entry in manifest.files)}
    if manifest.peak_memory_bytes is not None:
        sizes["peak_memory_bytes"] = manifest.peak_memory_bytes
    return sizes | manifest.timings


def _list_metrics(manifest: Manifest) -> dict[str, float]:
    return {figure.name: figure.value for figure in flatten_numbers(manifest.metrics)}


def _compare_layers(before: list[LayerError], after: list[LayerError]) -> tuple[LayerChange, ...]:
    known = {error.layer: error.snr_db for error in before}
    changes = [
        LayerChange(error.layer, first, error.snr_db)
        for error in after
        if error.snr_db is not None and (first := known.get(error.layer)) is not None
    ]
    return tuple(sorted(changes, key=lambda change: -change.drop_db))


def _compare_files(before: Manifest, after: Manifest) -> dict[str, NumberChange]:
    first = {entry.path: entry for entry in before.files}
    second = {entry.path: entry for entry in after.files}
    return {
        path: NumberChange(
            first[path].size if path in first else None,
            second[path].size if path in second else None,
        )
        for path in sorted({**first, **second})
        if path not in first or path not in second or first[path].sha256 != second[path].sha256
    }
