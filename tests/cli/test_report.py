"""`report`: where the page goes, what it refuses, what it needs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import RunHere
from tests.models import REPOSITORY, edit_json
from tests.recipe.harness import GATE, GPTQ, make_recipe, write_recipe
from tests.report.artifacts import write_run
from tests.report.html import read_page, read_values

WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
from llmopt.cli.main import main
main()
"""


def listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_report_of_a_real_run(
    run_here: RunHere, tmp_path: Path, random_model: Path, documents: Path
) -> None:
    steps = {"quantize": GPTQ, "gate": GATE}
    run = run_here("run", write_recipe(tmp_path, make_recipe(random_model, documents, steps)))
    assert run.returncode == 0, run.stderr
    done = run_here("report", "out/small", "--png", "plots")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[0] == "wrote out/small/report.html"
    page = read_page(tmp_path / "out/small/report.html")
    assert page.find("strong").text == "Gate passed: gate"
    assert len(page.find("div", class_="panels").find_all("path", class_="mark c0")) == 2 * 3
    assert len(page.find("table", class_="worst").find("tbody").find_all("tr")) == 8
    assert "quantize-layers.png" in listed(tmp_path / "plots")
    assert run_here("verify", "out/small/quantize").returncode == 0
    (tokens,) = (
        read_values(row)[0] for row in page.find("section", class_="calibration").find_all("tfoot")
    )
    assert tokens > 1000


def test_the_page_goes_beside_what_it_tells_of(run_here: RunHere, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    before = listed(tmp_path)
    for folder, written in (("run", "run/report.html"), ("run/gate", "run/gate.html")):
        done = run_here("report", folder)
        assert (done.returncode, done.stderr) == (0, f"wrote {written}\n")
        assert run_here("report", folder).returncode == 0  # a second time over the first
    assert run_here("report", "run", "-o", "new/place/page.html").returncode == 0
    new = {"new", "new/place", "new/place/page.html", "run/report.html", "run/gate.html"}
    assert set(listed(tmp_path)) == {*before, *new}
    # A page in a run's folder is no step of it.
    assert run_here("report", "run").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 8, "nowhere is no folder"),
        (["."], 8, "holds no manifest.json and no step's artifact"),
        (["run", "-o", "run/gate/page.html"], 2, "lies inside the artifact"),
        (["run", "--png", "run/gate/plots"], 2, "lies inside the artifact"),
        (["run", "-o", "run"], 2, "-o run is a folder"),
        (["run", "-o", "run/gate/manifest.json/x"], 2, "lies inside the artifact"),
    ],
)
def test_what_cannot_be_is_refused(
    run_here: RunHere, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    write_run(tmp_path / "run")
    before = listed(tmp_path)
    done = run_here("report", *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert listed(tmp_path) == before


def test_an_artifact_named_by_its_place_in_the_store_needs_an_output(
    run_here: RunHere, tmp_path: Path
) -> None:
    artifact = write_run(tmp_path / "run")["gate"]
    place = tmp_path / "store" / artifact.manifest.identity
    place.parent.mkdir()
    artifact.path.rename(place)
    done = run_here("report", place)
    assert done.returncode == 2
    assert "lies in the store, which holds artifacts alone\n  → " in done.stderr
    assert run_here("report", place, "-o", "page.html").returncode == 0


def test_without_matplotlib_the_page_is_written_and_png_names_the_extra(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MATPLOTLIB, "report", "run", "--png", "plots"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert "→ pip install 'llmopt[report]'" in done.stderr
    assert (tmp_path / "run/report.html").is_file()
    assert not (tmp_path / "plots").exists()


def test_limits_that_no_gate_knows_are_an_error(run_here: RunHere, tmp_path: Path) -> None:
    artifacts = write_run(tmp_path / "run")
    gate = artifacts["gate"]
    step = {**gate.manifest.step.model_dump(), "settings": {"require": {"kl_mean": {"odd": 1}}}}
    edit_json(gate.path / "manifest.json", step=step)
    done = run_here("report", "run")
    assert done.returncode == 8
    assert "the gate's limits can't be read: odd is not known to this version" in done.stderr


def test_a_secret_is_blotted_out(
    run_here: RunHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = write_run(tmp_path / "run")["gate"]
    edit_json(gate.path / "manifest.json", tools={"llmopt": "hf_abcdefgh"})
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    assert run_here("report", "run").returncode == 0
    text = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "hf_abcdefgh" not in text
    assert "llmopt ***" in text
