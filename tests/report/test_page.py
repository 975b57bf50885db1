"""The page holds what the manifests hold: read back by a parser, figure by figure."""

from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.manifest import InputRecord, LayerError, StepRecord
from llmopt.cli.report import judge_gates
from llmopt.report.lineage import open_lineage
from llmopt.report.page import make_report, render_page
from tests.report.artifacts import (
    make_layers,
    measure,
    write_artifact,
    write_gate,
    write_quantized,
    write_run,
)
from tests.report.html import SVG, Tag, read_drawings, read_page, read_rows, read_values


def render(folder: Path) -> Path:
    """Writes the page of a folder; returns its file."""
    lineage = open_lineage(folder)
    page = folder.parent / "page.html"
    report = make_report(lineage, judge_gates(lineage))
    page.write_text(render_page(report), encoding="utf-8")
    return page


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run")
    return tmp_path / "run"


def verdict(page: Tag) -> tuple[str, str]:
    """Returns the banner's tone and its first line."""
    banner = page.find("header").find("div")
    return banner.attributes["class"], banner.find("strong").text


def test_every_layer_is_one_mark_of_the_plot(run: Path) -> None:
    page = render(run)
    panels = [d for d in read_drawings(page) if d.get("class") == "panel"]
    marks = [
        p for panel in panels for p in panel.iter(f"{SVG}path") if "mark" in p.get("class", "")
    ]
    texts = [str(mark.findtext(f"{SVG}title")) for mark in marks]
    layers = make_layers(3)
    assert len(panels) == 2
    assert sorted(texts) == sorted(f"{e.layer}: {e.snr_db:.1f} dB" for e in layers)
    assert [len(list(panel.iter(f"{SVG}polyline"))) for panel in panels] == [4, 3]
    assert len({mark.get("transform") for mark in marks}) == len(layers)


def test_marks_of_lower_snr_lie_lower(run: Path) -> None:
    (panel, _) = [d for d in read_drawings(render(run)) if d.get("class") == "panel"]
    heights = {
        str(path.findtext(f"{SVG}title")): float(str(path.get("transform")).split()[1].rstrip(")"))
        for path in panel.iter(f"{SVG}path")
        if "mark" in path.get("class", "")
    }
    by_snr = sorted(heights, key=lambda text: -float(text.split(": ")[1].removesuffix(" dB")))
    assert [heights[text] for text in by_snr] == sorted(heights.values())


def test_the_worst_layers_are_listed_worst_first(run: Path) -> None:
    table = read_page(render(run)).find("table", class_="worst")
    worst = sorted(make_layers(3), key=lambda e: e.snr_db or 0)[:8]
    assert [row[0] for row in read_rows(table)] == [error.layer for error in worst]
    assert [row[1] for row in read_rows(table)] == [f"{error.snr_db:.1f} dB" for error in worst]


def test_figures_equal_the_manifests(run: Path) -> None:
    table = read_page(render(run)).find("table", class_="figures")
    metrics = measure()
    rows = {row.attributes["data-metric"]: row for row in table.find("tbody").find_all("tr")}
    shown = {name: read_values(row) for name, row in rows.items()}
    assert shown["perplexity"] == [metrics["perplexity"], metrics["baseline_perplexity"]]
    assert "baseline_perplexity" not in shown
    for name in ("kl_mean", "kl_p99", "top1_agreement", "num_tokens", "perplexity_increase_pct"):
        assert shown[name] == [metrics[name]]
    assert "0.01111 to 0.01358" in rows["kl_mean"].text
    assert rows["kl_p99"].text.endswith("0.2500 ––")


def test_without_intervals_the_page_says_so(tmp_path: Path) -> None:
    metrics = {**measure(intervals=False), "by_category": {}}
    write_gate(tmp_path / "run/gate", write_quantized(tmp_path / "run/quantize"), metrics=metrics)
    page = read_page(render(tmp_path / "run"))
    assert "95 % interval" not in page.text
    assert "The manifest holds no intervals." in page.text


def test_categories_have_bars_and_whiskers(run: Path) -> None:
    page = render(run)
    rows = read_rows(read_page(page).find("table", class_="categories"))
    assert [row[0] for row in rows] == ["寸法表", "tech-pack"]
    kl_mean = measure()["kl_mean"]
    drawn = {d.get("aria-label"): d for d in read_drawings(page) if d.get("class") == "bar"}
    with_interval = drawn[f"寸法表: {0.5 * kl_mean:#.4g}"]
    without = drawn[f"tech-pack: {1.5 * kl_mean:#.4g}"]
    assert len(with_interval.findall(f"{SVG}line")) == 3
    assert without.findall(f"{SVG}line") == []
    widths = [str(d.find(f"{SVG}rect").get("width")) for d in (with_interval, without)]  # type: ignore[union-attr]
    assert widths == ["33.33%", "100.00%"]


def test_a_load_has_a_bar_for_each_number_of_clients(tmp_path: Path) -> None:
    rates = {"clients_1": 40.0, "clients_8": 120.0}
    metrics: dict[str, Any] = {
        name: {"requests_per_s": rate / 4, "tokens_per_s": rate, "latency_p99_ms": 30.0}
        for name, rate in rates.items()
    }
    step = StepRecord(id="bench", uses="bench.triton", version=1, settings={})
    write_artifact(tmp_path / "run/bench", step=step, metrics={**metrics, "scaling": 3.0})
    page = render(tmp_path / "run")
    drawn = {d.get("aria-label"): d for d in read_drawings(page) if d.get("class") == "bar"}
    widths = [
        str(drawn[f"{name}: {rate:.1f}/s"].find(f"{SVG}rect").get("width"))  # type: ignore[union-attr]
        for name, rate in rates.items()
    ]
    assert widths == ["33.33%", "100.00%"]


def test_sizes_times_and_memory(run: Path) -> None:
    page = read_page(render(run))
    sizes, times, memory = page.find_all("table", class_="bars")
    assert read_values(sizes) == [16_000_000, 5_000_000]
    assert [row[0] for row in read_rows(sizes)] == ["base (source)", "quantize"]
    assert read_values(times) == [72.5, 45]
    assert read_values(memory) == [1_500_000_000, 900_000_000]
    tiles = {tile.find("dt").text: tile.find("dd").text for tile in page.find("dl").find_all("div")}
    assert tiles["weights"].startswith("5.0 MB3.20 × less")
    assert tiles["bits per weight"].startswith("5.00")
    assert tiles["KL divergence"].startswith("0.01235")
    assert tiles["time"].startswith("1 min 58 s")


def test_a_gates_verdict_is_the_gates_own(tmp_path: Path) -> None:
    quantized = write_quantized(tmp_path / "run/quantize")
    write_gate(tmp_path / "run/gate", quantized)
    passed = read_page(render(tmp_path / "run"))
    assert verdict(passed) == ("verdict good", "Gate passed: gate")
    assert "gate requires kl_mean at most 0.02" in passed.text
    write_gate(tmp_path / "missed/gate", quantized, metrics=measure(2))
    write_quantized(tmp_path / "missed/quantize")
    page = read_page(render(tmp_path / "missed"))
    assert verdict(page) == ("verdict bad", "Gate missed: gate")
    assert "gate: kl_mean is 0.0246912, allowed at most 0.02" in page.text
    write_quantized(tmp_path / "none/quantize")
    assert verdict(read_page(render(tmp_path / "none"))) == (
        "verdict plain",
        "No gate has judged this.",
    )


def test_a_gate_of_an_earlier_artifact_is_no_verdict(tmp_path: Path) -> None:
    earlier = write_quantized(tmp_path / "earlier")
    write_gate(tmp_path / "run/gate", earlier)
    later = write_quantized(tmp_path / "run/earlier", identity="f" * 64)
    page = read_page(render(tmp_path / "run"))
    assert verdict(page)[0] == "verdict bad"
    assert verdict(page)[1].startswith("No verdict: gate judged another artifact")
    digests = f"({earlier.manifest.identity[:12]}) than the one linked here ({'f' * 12})"
    assert f"gate was made from another earlier {digests}" in page.find("div", role="alert").text
    assert later.manifest.identity[:12] in page.text


def test_degraded_modes_and_damage_stand_before_the_figures(tmp_path: Path) -> None:
    faults = [f"layer {index}: damping raised" for index in range(9)]
    write_quantized(tmp_path / "run/quantize", degraded=faults)
    (tmp_path / "run/quantize/model.safetensors").write_text("short", encoding="utf-8")
    header = read_page(render(tmp_path / "run")).find("header")
    alert = header.find("div", role="alert")
    assert "quantize: degraded: layer 0: damping raised" in alert.text
    assert "and 4 more, listed in the manifests" in alert.text
    assert [child.name for child in header.children].index("dl") > header.children.index(alert)


def test_a_sound_run_has_no_warning(run: Path) -> None:
    assert read_page(render(run)).find_all("div", role="alert") == []


def test_lineage_settings_versions_and_files(run: Path) -> None:
    page = read_page(render(run))
    inputs = read_rows(page.find("table", class_="inputs"))
    assert inputs[0] == ["quantize", "model", "base", "checkpoint", "./model", "b" * 12]
    assert [row[:3] for row in inputs[1:]] == [
        ["quantize", "data", "calibration"],
        ["gate", "model", "quantize"],
        ["gate", "baseline", "base"],
        ["gate", "data", "heldout"],
    ]
    settings = [dl.text for dl in page.find_all("dl", class_="settings")]
    assert "group_size128" in settings[0].replace(" ", "")
    assert "require.kl_mean.max0.02" in settings[1].replace(" ", "")
    assert "torch 2.13.0" in page.find("table", class_="machines").text
    files = [row for table in page.find_all("table", class_="files") for row in read_rows(table)]
    manifests = [a.manifest for a in open_lineage(run).artifacts]
    assert files == [
        [entry.path, f"{entry.size} B", entry.sha256] for m in manifests for entry in m.files
    ]


def test_the_graph_has_a_box_per_name_and_a_curve_per_input(run: Path) -> None:
    (graph,) = [d for d in read_drawings(render(run)) if d.get("class") == "graph"]
    names = [t.text for t in graph.iter(f"{SVG}text") if t.get("class") == "name"]
    assert sorted(map(str, names)) == ["base", "calibration", "gate", "heldout", "quantize"]
    edges = [p for p in graph.iter(f"{SVG}path") if p.get("class") == "edge"]
    fields = sorted(str(edge.findtext(f"{SVG}title")) for edge in edges)
    assert fields == ["baseline", "data", "data", "model", "model"]
    boxes = [(r.get("x"), r.get("y")) for r in graph.iter(f"{SVG}rect")]
    assert len(set(boxes)) == 5


def test_calibration_composition_counts_the_sets_file(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer = (tiny_model / "tokenizer.json").read_text(encoding="utf-8")
    rows = ['{"text": "袖と衿", "category": "<b>"}', '{"text": "x", "category": "a"}'] * 2
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(rows), encoding="utf-8")
    given = InputRecord(name="c", kind="dataset", origin=f"path={data} samples=2", digest="e" * 64)
    files = {"model.safetensors": "w", "tokenizer.json": tokenizer}
    write_quantized(tmp_path / "run/quantize", inputs={"data": given}, files=files)
    section = read_page(render(tmp_path / "run")).find("section", class_="calibration")
    table = section.find("table")
    assert [row[0] for row in read_rows(table)] == ["<b>", "a"]
    tokens, characters, documents = zip(*_rows_of_values(table), strict=True)
    assert (characters, documents) == ((6, 2), (2, 2))
    assert tokens[0] >= 2
    assert "32,768 tokens of it were used by quantize" in section.text


def _rows_of_values(table: Tag) -> list[list[float]]:
    return [read_values(row) for row in table.find("tbody").find_all("tr")]


def test_an_unknown_data_file_is_said_to_be_unknown(tmp_path: Path) -> None:
    given = InputRecord(name="c", kind="dataset", origin="path=./gone.jsonl", digest="e" * 64)
    write_quantized(tmp_path / "run/quantize", inputs={"data": given})
    section = read_page(render(tmp_path / "run")).find("section", class_="calibration")
    assert "No composition: its path is relative to a recipe" in section.text


def test_markup_in_names_is_inert(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    layers = [LayerError(layer=f"{evil}.0.q_proj", loss=1, snr_db=1, weight_mse=1)]
    step = StepRecord(id=evil, uses=evil, version=1, settings={evil: evil}, overrides=[evil])
    given = InputRecord(name=evil, kind=evil, origin=evil, digest=evil)
    write_artifact(
        tmp_path / "run/a",
        recipe=evil,
        step=step,
        inputs={"data": given},
        layers=layers,
        metrics={**measure(), "by_category": {evil: measure()}},
        machine={evil: evil},
        tools={evil: evil},
        degraded=[evil],
    )
    page = read_page(render(tmp_path / "run"))
    assert page.find_all("script") == []
    assert page.find("h1").text == evil
    assert evil in page.find("div", role="alert").text


def test_the_page_asks_for_nothing_from_outside(run: Path) -> None:
    text = render(run).read_text(encoding="utf-8")
    page = read_page(run.parent / "page.html")
    policy = page.find("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    for tag in ("script", "link", "img", "iframe", "object", "image", "use"):
        assert page.find_all(tag) == []
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in without_namespace
    assert "https:" not in without_namespace
    assert "url(" not in text
    assert "@import" not in text


def test_layers_without_data_are_plotted_by_their_weights_error(tmp_path: Path) -> None:
    write_quantized(tmp_path / "run/rtn", layers=make_layers(2, loss=False))
    page = render(tmp_path / "run")
    section = read_page(page).find("section", class_="layers")
    assert section.find("h2").text == "Weight error by layer: rtn"
    assert "No calibration data was given" in section.text
    panels = [d for d in read_drawings(page) if d.get("class") == "panel"]
    ticks = [t.text for t in panels[0].iter(f"{SVG}text") if t.get("class") == "tick end"]
    assert ticks == ["1e-05", "0.0001", "0.001"]


def test_candidates_share_one_table(tmp_path: Path) -> None:
    metrics: dict[str, Any] = {"gptq": measure(1), "rtn": {**measure(4), "by_category": {}}}
    write_artifact(tmp_path / "run/compare", metrics=metrics)
    page = read_page(render(tmp_path / "run"))
    table = page.find("table", class_="categories")
    assert [row[0] for row in read_rows(table)] == ["gptq", "rtn"]
    assert _rows_of_values(table)[1][0] == metrics["rtn"]["kl_mean"]
    assert [h.text for h in page.find_all("h3")][:3] == ["Candidates", "gptq", "rtn"]


def test_an_empty_evaluation_still_has_a_page(tmp_path: Path) -> None:
    write_artifact(tmp_path / "run/odd", machine={}, tools={}, recipe=None)
    page = read_page(render(tmp_path / "run"))
    assert page.find("h1").text == "run"
    assert len(page.find_all("table", class_="files")) == 1
