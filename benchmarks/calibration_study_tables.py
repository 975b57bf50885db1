"""Sums a calibration study up: means over seeds, intervals over documents, tables, a figure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from llmopt.evaluate.bootstrap import Resampled, resample
from llmopt.evaluate.scoring import TokenScores

BOOTSTRAP_SAMPLES = 2000
SCALE = 1000  # figures are in thousandths of a nat
UNIT = "10⁻³ nats per token"
NO_DIFFERENCE = "no difference"
COLOURS = ("#0072b2", "#d55e00", "#008f6b", "#a8478f", "#8a6d00", "#59636e")
MARKERS = ("o", "s", "^", "D", "v", "P")
DODGE = 0.12


@dataclass(frozen=True)
class DocumentKl:
    """What one candidate cost on one held-out document.

    Attributes:
        group: The group size, in words.
        calibration: What the candidate was calibrated on.
        heldout: The held-out set.
        run: The run that it comes from: another run is another seed.
        document: The document's place in its file.
        num_tokens: Scored tokens.
        kl: Mean KL to the original over them, in nats.
    """

    group: str
    calibration: str
    heldout: str
    run: str
    document: str
    num_tokens: int
    kl: float


@dataclass(frozen=True)
class Cell:
    """One calibration set on one held-out set.

    Attributes:
        each: KL over all tokens, by seed.
        mean: Their mean.
        resampled: That mean over resamples of the documents.
    """

    each: tuple[float, ...]
    mean: float
    resampled: Resampled

    @classmethod
    def gather(cls, rows: Iterable[DocumentKl]) -> "Cell":
        """Averages the seeds document by document, so that documents alone are resampled."""
        rows = list(rows)
        runs = sorted({row.run for row in rows})
        documents = sorted({row.document for row in rows})
        found = {(row.run, row.document): row for row in rows}
        tokens_N = np.array([found[runs[0], document].num_tokens for document in documents])
        kl_RN = np.array([[found[run, document].kl for document in documents] for run in runs])
        each = tuple(float(kl) for kl in kl_RN @ tokens_N / tokens_N.sum())
        return cls(each, float(np.mean(each)), _resample(tokens_N, kl_RN.mean(axis=0)))


def _resample(tokens_N: np.ndarray, kl_N: np.ndarray) -> Resampled:
    """Resamples as llmopt's comparisons do; a document's tokens count as equal."""
    document = np.repeat(np.arange(len(tokens_N)), tokens_N)
    nothing = np.zeros(len(document))
    scores = TokenScores(document, nothing, nothing, np.repeat(kl_N, tokens_N), nothing > 0)
    return resample(scores, BOOTSTRAP_SAMPLES)["kl_mean"]


Summary = dict[str, dict[str, dict[str, Cell]]]  # group → calibration → held-out set


def summarise(measured: Iterable[DocumentKl]) -> Summary:
    """Gathers what was measured into cells, in the order in which it comes."""
    parts: dict[tuple[str, str, str], list[DocumentKl]] = {}
    for row in measured:
        parts.setdefault((row.group, row.calibration, row.heldout), []).append(row)
    summary: Summary = {}
    for (group, calibration, heldout), rows in parts.items():
        cells = summary.setdefault(group, {}).setdefault(calibration, {})
        cells[heldout] = Cell.gather(rows)
    return summary


def write_tables(summary: Summary, reference: str) -> str:
    """Returns for each group size a table of KL and one of differences to `reference`."""
    lines: list[str] = []
    for group, by_calibration in summary.items():
        expected = by_calibration[reference]
        lines += _start_table(f"{group}: KL, {UNIT}", "calibrated on", expected)
        for name, cells in by_calibration.items():
            lines.append(_row(name, [describe_kl(cells[heldout]) for heldout in expected]))
        lines += _start_table(
            f"{group}: KL minus that of {reference}, {UNIT}", "calibrated on", expected
        )
        for name, cells in by_calibration.items():
            if name != reference:
                texts = [describe_difference(cells[h], expected[h]) for h in expected]
                lines.append(_row(name, texts))
    return "\n".join(lines).strip()


def _start_table(title: str, first: str, heldout: Iterable[str]) -> list[str]:
    names = [f"on {name}" for name in heldout]
    return ["", f"**{title}**", "", _row(first, names), "|---" * (len(names) + 1) + "|"]


def _row(first: str, rest: Iterable[str]) -> str:
    return "| " + " | ".join([first, *rest]) + " |"


def describe_kl(cell: Cell) -> str:
    """Writes the mean, its interval and the seeds' range."""
    low, high = _scaled_interval(cell.resampled)
    text = f"{SCALE * cell.mean:.3f} [{low:.3f}, {high:.3f}]"
    if len(cell.each) == 1:
        return text
    return f"{text}; seeds {SCALE * min(cell.each):.3f} to {SCALE * max(cell.each):.3f}"


def describe_difference(cell: Cell, reference: Cell) -> str:
    """Writes the paired difference; it is none where its interval holds 0 or seeds overlap."""
    low, high = _scaled_interval(cell.resampled.minus(reference.resampled))
    difference = SCALE * (cell.mean - reference.mean)
    percent = 100 * (cell.mean / reference.mean - 1)
    text = f"{difference:+.3f} [{low:+.3f}, {high:+.3f}], {percent:+.1f} %"
    if low <= 0 <= high:
        return f"{text}: {NO_DIFFERENCE}"
    if max(cell.each) >= min(reference.each) and max(reference.each) >= min(cell.each):
        return f"{text}: {NO_DIFFERENCE}, seeds overlap"
    return text


def _scaled_interval(resampled: Resampled) -> tuple[float, float]:
    low, high = (SCALE * float(end) for end in resampled.interval())  # type: ignore[arg-type]
    return low, high


def draw_figure(summary: Summary, path: Path) -> None:
    """Draws KL by held-out and calibration set, one panel per group size, with intervals."""
    with rc_context({"font.size": 10, "svg.hashsalt": "llmopt"}):  # equal figures, equal bytes
        figure = Figure(figsize=(12, 5.4), layout="constrained")
        axes = figure.subplots(1, len(summary), sharey=True, squeeze=False)[0]
        for place, (group, by_calibration) in zip(axes, summary.items(), strict=True):
            _draw_panel(place, by_calibration)
            place.set_title(group, loc="left", fontsize=11)
        axes[0].set_ylabel(f"KL to the original, {UNIT} (log scale)")
        marks, names = axes[0].get_legend_handles_labels()
        figure.legend(
            marks, names, loc="outside lower center", ncols=len(names), frameon=False,
            title="calibrated on",
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": "llmopt"}
        figure.savefig(path, dpi=160, metadata=metadata)


def _draw_panel(axes: Axes, by_calibration: Mapping[str, Mapping[str, Cell]]) -> None:
    heldout = list(next(iter(by_calibration.values())))
    middle = (len(by_calibration) - 1) / 2
    for index, (name, cells) in enumerate(by_calibration.items()):
        places = [at + DODGE * (index - middle) for at in range(len(heldout))]
        means = [SCALE * cells[h].mean for h in heldout]
        ends = [_scaled_interval(cells[h].resampled) for h in heldout]
        errors = [
            [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
            [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
        ]
        axes.errorbar(
            places, means, yerr=errors, label=name, linestyle="none", capsize=3, markersize=6,
            marker=MARKERS[index], color=COLOURS[index],
        )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(
        range(len(heldout)), ["on held-out\n" + name.replace(", ", "\n") for name in heldout]
    )
    axes.grid(axis="y", color="#e6e9ed")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
