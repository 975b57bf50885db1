"""What benchmarks/gptq_peers.py measured, as a Markdown table and a figure."""

import statistics
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gptq_peers_limit import Limit, ModelShape, Rates
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = "llmopt"
AIMS = {"gptqmodel": 6.0, "llmcompressor": 4.0}  # times llmopt's wall
LIMIT_AIM = 1.5
PAGE_WIDTH = 104
MIB = 2**20
IMPORT_COLOUR, REST_COLOUR, MEMORY_COLOUR, LIMIT_COLOUR = "#9aa7b5", "#2f6db5", "#5b8c5a", "#b5432f"


@dataclass(frozen=True)
class Run:
    """One whole process.

    Attributes:
        wall_s: From start to exit, imports included.
        cpu_s: User and system seconds, threads and ended children included.
        peak_rss_bytes: Of the process or the biggest of its children.
    """

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class ToolResult:
    """What one tool took over all rounds, and what its model is worth.

    Attributes:
        version: The tool's name and version.
        runs: The quantising processes, in the order of the rounds.
        imports: Processes that only import what quantising imports.
        kl: KL of the tiny model, quantised on the same ids, to its original; nats per token.
    """

    version: str
    runs: tuple[Run, ...]
    imports: tuple[Run, ...]
    kl: float

    @property
    def wall_s(self) -> float:
        """The median."""
        return statistics.median(run.wall_s for run in self.runs)

    @property
    def import_s(self) -> float:
        """The median."""
        return statistics.median(run.wall_s for run in self.imports)

    @property
    def cpu_s(self) -> float:
        """The median."""
        return statistics.median(run.cpu_s for run in self.runs)

    @property
    def peak_rss_bytes(self) -> float:
        """The median."""
        return statistics.median(run.peak_rss_bytes for run in self.runs)


Results = Mapping[str, ToolResult]


def describe(results: Results, limit: Limit, rates: Rates, shape: ModelShape, machine: str) -> str:
    """Writes the whole part of docs/benchmarks.md, without the markers."""
    rounds = len(next(iter(results.values())).runs)
    head = (
        f"`python benchmarks/gptq_peers.py --rounds {rounds}`. A random Llama, bf16: hidden "
        f"{shape.hidden}, {shape.layers} layers, {shape.heads} heads, {shape.kv_heads} kv heads, "
        f"intermediate {shape.intermediate}, vocabulary {shape.vocab}. 4 bits, group 128, "
        f"symmetric; {shape.samples} × {shape.seq_len} tokens, the same ids for every tool, each "
        "in its own environment and at its defaults but for what its row says. Medians of "
        f"{rounds} runs in turn (a, b, c, a, b, c, …) on {machine}. Wall is the whole process, "
        "from its start to the finished "
        "checkpoint; KL is of the tiny trained model, quantised by each tool on the same ids, to "
        "its original on the held-out split, in nats per token."
    )
    parts = [
        wrap(head),
        write_table(results, limit),
        "![Wall time and peak memory by tool](images/gptq-peers.svg)",
        wrap(describe_limit(limit, rates, shape)),
        "\n".join(describe_aims(results, limit)),
    ]
    return "\n\n".join(parts)


def wrap(paragraph: str) -> str:
    """Breaks a paragraph into lines of the page's width."""
    return textwrap.fill(paragraph, PAGE_WIDTH, break_long_words=False, break_on_hyphens=False)


def write_table(results: Results, limit: Limit) -> str:
    """Writes one row a tool, and the limit's."""
    ours = results[OURS].wall_s
    lines = [
        "| tool | wall, s (each) | of it imports, s | wall / llmopt's | CPU, s | peak RSS, MiB "
        "| KL |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        title = f"**{result.version}**" if name == OURS else result.version
        each = ", ".join(f"{run.wall_s:.1f}" for run in result.runs)
        lines.append(
            f"| {title} | {result.wall_s:.1f} ({each}) | {result.import_s:.1f} | "
            f"{result.wall_s / ours:.2f} | {result.cpu_s:.1f} | "
            f"{result.peak_rss_bytes / MIB:.0f} | {result.kl:.6f} |"
        )
    lines.append(f"| limit | {limit.total_s:.1f} | | {limit.total_s / ours:.2f} | | | |")
    return "\n".join(lines)


def describe_limit(limit: Limit, rates: Rates, shape: ModelShape) -> str:
    """Says what the limit is made of."""
    linear = _range(rates.linear.values())
    hessian, solve = _range(rates.hessian.values()), _range(rates.solve.values())
    return (
        f"The limit is what the arithmetic alone takes at this machine's matmul rates, measured in "
        f"the same run on the model's shapes: {limit.linear_s:.1f} s of linear layers' forward "
        f"passes over {shape.tokens:,} tokens ({linear} GFLOP/s), {limit.attention_s:.1f} s of "
        f"attention, {limit.hessian_s:.1f} s of Hessians' upper halves ({hessian} GFLOP/s, whole "
        f"products, the faster of float32 and lowered to bf16), {limit.solve_s:.1f} s of "
        f"solving ({solve} GFLOP/s, float32)."
    )


def describe_aims(results: Results, limit: Limit) -> list[str]:
    """Says of each aim whether it was met."""
    ours = results[OURS]
    lines = [
        _judge(
            f"wall at most 1/{aim:g} of {name}'s: 1/{results[name].wall_s / ours.wall_s:.2f}",
            met=ours.wall_s * aim <= results[name].wall_s,
        )
        for name, aim in AIMS.items()
        if name in results
    ]
    ratio = ours.wall_s / limit.total_s
    lines.append(
        _judge(f"wall at most {LIMIT_AIM:g} × the limit: {ratio:.2f} ×", met=ratio <= LIMIT_AIM)
    )
    best = min(result.kl for result in results.values())
    text = f"KL no worse than the best tool's: {ours.kl:.6f}, the best {best:.6f}"
    return [*lines, _judge(text, met=ours.kl <= best)]


def _judge(text: str, *, met: bool) -> str:
    return f"- {'met' if met else '**missed**'}: {text}"


def _range(values: Iterable[float]) -> str:
    rates = sorted(values)
    return f"{rates[0]:.0f} to {rates[-1]:.0f}"


def draw_figure(results: Results, limit: Limit, path: Path) -> None:
    """Draws wall with its imports and the limit, and peak memory, by tool."""
    with rc_context({"font.size": 10, "svg.hashsalt": "llmopt"}):  # equal figures, equal bytes
        figure = Figure(figsize=(10, 0.6 * len(results) + 1.9), layout="constrained")
        time_axes, memory_axes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _draw_walls(time_axes, results, limit)
        _draw_memory(memory_axes, results)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": "llmopt"}
        figure.savefig(path, dpi=160, metadata=metadata)


def _draw_walls(axes: Axes, results: Results, limit: Limit) -> None:
    names = [result.version for result in results.values()]
    imports = [result.import_s for result in results.values()]
    walls = [result.wall_s for result in results.values()]
    rest = [wall - start for wall, start in zip(walls, imports, strict=True)]
    axes.barh(names, imports, color=IMPORT_COLOUR, height=0.55, label="imports")
    bars = axes.barh(names, rest, left=imports, color=REST_COLOUR, height=0.55, label="the rest")
    axes.bar_label(bars, [f"{wall:.1f} s" for wall in walls], padding=4)
    axes.axvline(limit.total_s, color=LIMIT_COLOUR, linestyle="--", label="limit")
    axes.set_title("wall time of the whole process", loc="left", fontsize=11)
    axes.set_xlabel("seconds, median")
    axes.invert_yaxis()
    axes.legend(frameon=False, loc="lower right")
    _tidy(axes)


def _draw_memory(axes: Axes, results: Results) -> None:
    names = [result.version for result in results.values()]
    peaks = [result.peak_rss_bytes / MIB for result in results.values()]
    bars = axes.barh(names, peaks, color=MEMORY_COLOUR, height=0.55)
    axes.bar_label(bars, [f"{peak:.0f}" for peak in peaks], padding=4)
    axes.set_title("peak memory", loc="left", fontsize=11)
    axes.set_xlabel("MiB, median")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.margins(x=0.16)
    axes.grid(axis="x", color="#e6e9ed")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
