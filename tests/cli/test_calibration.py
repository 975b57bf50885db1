"""`calibration lint|stats|build`: planted faults, verdicts, and the windows of a quantisation."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from llmopt import __version__
from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.store import Store
from llmopt.data.calibration_windows import CalibrationWindows
from llmopt.recipe.loader import load_recipe
from llmopt.recipe.plan import RunOptions, make_plan
from llmopt.steps.quantize_fields import QuantizeFields
from llmopt.steps.quantize_run import load_windows
from tests.cli.conftest import RunHere
from tests.conftest import RunCli
from tests.models import REPOSITORY, TINY_MODEL

SHIPPED = REPOSITORY / "calibration" / "apparel-ja"
NUM_ROWS = 60
Row = dict[str, Any]


def read_rows(split: str) -> list[Row]:
    lines = (SHIPPED / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_rows(path: Path, rows: list[Row | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def clean(tmp_path: Path) -> list[Row | str]:
    """The rows of a folder `own` that has no faults, and a held-out split."""
    folder = tmp_path / "own"
    folder.mkdir()
    write_rows(folder / "heldout.jsonl", [*read_rows("heldout")])
    rows: list[Row | str] = [row for row in read_rows("calibration") if "text" in row][:NUM_ROWS]
    write_rows(folder / "calibration.jsonl", rows)
    return rows


def lint(run_here: RunHere, *options: str | Path) -> tuple[int, dict[str, list[str]]]:
    """Lints the folder `own`; returns the exit code, and what is wrong: check → row names."""
    done = run_here("calibration", "lint", "own", "--json", *options)
    report = json.loads(done.stdout)
    assert report["fit"] == (done.returncode == 0)
    return done.returncode, {
        finding["check"]: [row["origin"].rpartition("/")[2] for row in finding["rows"]]
        for finding in report["findings"]
        if finding["severity"] != "info"
    }


def plant_only(text: str) -> Callable[[list[Any]], None]:
    """Makes row 8 another text."""
    return plant_text(lambda _: text)


def plant_text(change: Callable[[str], str]) -> Callable[[list[Any]], None]:
    """Changes the text of row 8."""

    def plant(rows: list[Any]) -> None:
        rows[7] = {**rows[7], "text": change(rows[7]["text"])}

    return plant


def plant_copy(change: Callable[[str], str]) -> Callable[[list[Any]], None]:
    """Puts a changed copy of row 3 into row 8."""

    def plant(rows: list[Any]) -> None:
        rows[7] = {**rows[7], "text": change(rows[2]["text"])}

    return plant


def plant_leak(rows: list[Any]) -> None:
    leaked = next(row["text"] for row in read_rows("heldout") if "text" in row)
    rows[7] = {**rows[7], "text": "次の文書を見よ。\n" + leaked}


def plant_malformed(rows: list[Any]) -> None:
    rows[7] = '{"text": "前身頃'


AT_8 = ["calibration.jsonl:8"]
ERRORS = {
    "rows": plant_malformed,
    "empty": plant_only(" \n"),
    "duplicates": plant_copy(lambda text: text.replace("\n", "\n\n")),
    "broken-unicode": plant_text(lambda text: text + "\ufffd"),
    "mojibake": plant_text(lambda text: text + "縫製仕様書".encode().decode("cp932", "ignore")),
    "personal-data": plant_text(lambda text: text + "連絡先 ０３－１２３４－５６７８"),
}
WARNINGS = {
    "short": plant_only("袖丈は58cm"),
    "near-duplicates": plant_copy(lambda text: text[:200] + "なお、" + text[200:]),
    "dubious-unicode": plant_text(lambda text: text + "\u200b"),
    "half-width": plant_text(lambda text: text[:100] + "ｼﾖｳｼﾞｮｳﾉﾁｭｳｲﾊｳﾗﾒﾝｦｺﾞﾗﾝｸﾀﾞｻｲ"),
    "foreign-kanji": plant_text(lambda text: text + "图纸"),
    "contact-data": plant_text(lambda text: text + "詳細は www.example.com に"),
}


def test_a_clean_set_has_no_faults(run_here: RunHere, clean: list[Row | str]) -> None:
    assert lint(run_here, "--strict") == (0, {})
    text = run_here("calibration", "lint", "own").stdout
    assert text.startswith("own (calibration.jsonl): 60 documents\n")
    assert text.endswith("\nfit: 0 errors, 0 warnings\n")
    assert "✗" not in text


@pytest.mark.parametrize("check", [*ERRORS, *WARNINGS])
def test_a_planted_fault_is_found_and_nothing_else(
    run_here: RunHere, tmp_path: Path, clean: list[Row | str], check: str
) -> None:
    {**ERRORS, **WARNINGS}[check](clean)
    write_rows(tmp_path / "own" / "calibration.jsonl", clean)
    fatal = check in ERRORS
    assert lint(run_here) == (8 if fatal else 0, {check: AT_8})
    done = run_here("calibration", "lint", "own", "--strict")
    assert done.returncode == 8
    first = done.stdout.split("\n")[2]
    assert first.startswith(f"{'✗' if fatal else '!'} {check} ")
    verdict = "1 error, 0 warnings" if fatal else "0 errors, 1 warning"
    assert done.stdout.endswith(f"\nnot fit: {verdict}\n")
    assert done.stderr == f"unsuitable input: data set own is not fit: {verdict}\n"


def test_a_leaked_held_out_document_is_found(
    run_here: RunHere, tmp_path: Path, clean: list[Row | str]
) -> None:
    plant_leak(clean)
    path = write_rows(tmp_path / "own" / "calibration.jsonl", clean)
    heldout = tmp_path / "own" / "heldout.jsonl"
    first = next(n for n, row in enumerate(read_rows("heldout"), start=1) if "text" in row)
    found = {"heldout-overlap": [f"heldout.jsonl:{first}"]}
    assert lint(run_here) == (8, found)
    other = write_rows(tmp_path / "other.jsonl", [{"text": "別の文書"}])
    assert lint(run_here, "--heldout", other) == (0, {})
    assert lint(run_here, "--heldout", other, "--heldout", heldout) == (8, found)
    done = run_here("calibration", "lint", path)
    assert done.returncode == 0
    assert "not checked: no held-out set given" in done.stdout


def test_a_set_of_another_script_and_field_of_terms(run_here: RunHere, tmp_path: Path) -> None:
    texts = ("Attach the button with a shank of 3 mm.", "Fold the hem twice and press it flat.")
    rows: list[Row | str] = [{"text": text, "lang": "ja"} for text in texts]
    write_rows(tmp_path / "own.jsonl", rows)
    done = run_here("calibration", "lint", "own.jsonl", "--terms", "apparel-ja")
    assert done.returncode == 0
    assert done.stdout.startswith("own.jsonl: 2 documents\n\n! scripts ")
    assert "\n! terms " in done.stdout
    assert done.stdout.endswith("fit: 0 errors, 2 warnings\n")
    strict = run_here("calibration", "lint", "own.jsonl", "--strict")
    assert strict.returncode == 8
    assert strict.stdout.endswith("not fit: 0 errors, 1 warning\n")


@pytest.mark.parametrize("split", ["calibration", "heldout"])
def test_the_shipped_set_is_fit_for_the_tiny_model(run_here: RunHere, split: str) -> None:
    done = run_here(
        "calibration", "lint", "apparel-ja", "--split", split, "--tokenizer", TINY_MODEL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for check in ("heldout-overlap", "terms", "tokens", "byte-fallback", "chat-template"):
        assert f"✓ {check} " in done.stdout


def test_a_long_list_of_rows_is_cut_in_text_alone(
    run_here: RunHere, tmp_path: Path, clean: list[Row | str]
) -> None:
    write_rows(tmp_path / "own" / "calibration.jsonl", [*clean, *clean])
    _, faults = lint(run_here)
    assert len(faults["duplicates"]) == NUM_ROWS
    text = run_here("calibration", "lint", "own").stdout
    assert "✗ duplicates       60 of 120 documents repeat an earlier one\n" in text
    assert text.count("same as ") == 5
    assert "… and 55 more (--json lists all)" in text


def test_another_field_can_be_the_document(run_here: RunHere, tmp_path: Path) -> None:
    write_rows(tmp_path / "own.jsonl", [{"body": "前身頃に芯を貼り、袖口を縫製してから検品する。"}])
    assert run_here("calibration", "lint", "own.jsonl").returncode == 8
    done = run_here("calibration", "lint", "own.jsonl", "--field", "body")
    assert (done.returncode, done.stderr) == (0, "")


def test_bad_input_is_told(run_here: RunHere, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = [
        (("lint", "nowhere.jsonl"), "does not exist"),
        (("stats", "nosuchset"), "no shipped data set 'nosuchset'"),
        (("lint", "apparel-ja", "--split", "test"), "has no split 'test'"),
        (("lint", "apparel-ja", "--tokenizer", "nowhere"), "tokenizer nowhere is no folder"),
        (("lint", "apparel-ja", "--tokenizer", "empty"), "the tokenizer of empty can't be loaded"),
        (("lint", "apparel-ja", "--terms", "nowhere.json"), "term list nowhere.json does not"),
        (("lint", "apparel-ja", "--heldout", "nowhere.jsonl"), "nowhere.jsonl does not exist"),
        (("build", "apparel-ja", "--tokenizer", TINY_MODEL, "-o", "empty"), "can't be written"),
        (
            ("build", "apparel-ja", "--tokenizer", TINY_MODEL, "-o", "w", "--samples", "100000"),
            "calibration wants 100000 samples",
        ),
    ]
    for arguments, message in cases:
        done = run_here("calibration", *arguments)
        assert (done.returncode, done.stdout) == (8, ""), done
        assert message in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--samples", "0", "--samples: "),
        ("--pack", "zip", "--pack: "),
        ("--seed", "-1", "--seed: "),
    ],
)
def test_a_bad_option_of_build_is_exit_code_2(
    run_here: RunHere, option: str, value: str, message: str
) -> None:
    done = run_here(
        "calibration", "build", "apparel-ja", "--tokenizer", TINY_MODEL, "-o", "w", option, value
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_stats_are_the_data_cards(run_here: RunHere) -> None:
    report = json.loads(run_here("calibration", "stats", "apparel-ja", "--json").stdout)
    rows = read_rows("calibration")
    assert report["total"]["documents"] == len(rows)
    assert report["tokens"] is None
    assert report["malformed"] == 0
    count = sum(row["lang"] == "en" for row in rows)
    assert report["languages"]["en"]["documents"] == count
    text = run_here("calibration", "stats", "apparel-ja", "--tokenizer", TINY_MODEL).stdout
    assert f"  total{'':19}{len(rows):>12,}{report['total']['characters']:>14,}\n" in text
    assert "  hiragana  " in text
    assert "tokens per document\n  min  " in text


def test_stats_leave_malformed_rows_out(run_here: RunHere, tmp_path: Path) -> None:
    write_rows(tmp_path / "own.jsonl", [{"text": "前身頃"}, "{"])
    done = run_here("calibration", "stats", "own.jsonl")
    assert done.returncode == 0
    assert "left out: 1 malformed rows" in done.stdout


def plan_windows(recipe: Path) -> CalibrationWindows:
    """Cuts the windows as the recipe's quantisation does."""
    plan = make_plan(load_recipe(recipe), Store(recipe.parent / "store"), Path(), RunOptions())
    (planned,) = plan.steps
    assert isinstance(planned.step, QuantizeFields)
    return load_windows(planned.step.open_checkpoint(planned.inputs), planned.inputs["data"])


@pytest.mark.parametrize(
    "options",
    [
        ("--samples", "5", "--seq-len", "64", "--seed", "3"),
        ("--samples", "4", "--seq-len", "128", "--template", "chat", "--pack", "pad"),
        ("--samples", "4", "--seq-len", "200", "--pack", "truncate", "--split", "heldout"),
    ],
    ids=lambda options: options[-1],
)
def test_build_writes_the_windows_that_gptq_sees(
    run_here: RunHere, tmp_path: Path, random_model: Path, options: tuple[str, ...]
) -> None:
    printed = run_here("quantize", "gptq", random_model, *options, "--print-recipe")
    (tmp_path / "r.yaml").write_text(printed.stdout, encoding="utf-8")
    seen = plan_windows(tmp_path / "r.yaml")
    done = run_here(
        *("calibration", "build", "apparel-ja", "--tokenizer", random_model),
        *("-o", "deep/w.safetensors", *options),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\ndeep/w.safetensors\n")
    with safe_open(tmp_path / "deep" / "w.safetensors", "numpy") as file:
        assert set(file.keys()) == {"ids", "lengths"}
        ids_NT, lengths_N = file.get_tensor("ids"), file.get_tensor("lengths")
        metadata = file.metadata()
    assert ids_NT.dtype == lengths_N.dtype == np.int64
    assert np.array_equal(ids_NT, seen.ids_NT)
    assert np.array_equal(lengths_N, seen.lengths_N)
    split = "heldout" if "heldout" in options else "calibration"
    assert metadata["data_sha256"] == digest_file(SHIPPED / f"{split}.jsonl")
    assert metadata["tokenizer_sha256"] == digest_file(random_model / "tokenizer.json")
    assert metadata["llmopt_version"] == __version__
    spec = json.loads(metadata["spec"])
    assert (spec["samples"], spec["seq_len"]) == ids_NT.shape
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


def test_build_says_what_it_wrote(run_here: RunHere, tmp_path: Path) -> None:
    arguments = ("calibration", "build", "apparel-ja", "--tokenizer", TINY_MODEL, "--samples", "2")
    report = json.loads(run_here(*arguments, "-o", "w", "--json").stdout)
    assert (report["windows"], report["seq_len"], report["tokens"]) == (2, 512, 1024)
    assert report["spec"]["set"] == "apparel-ja"
    assert run_here(*arguments, "-o", "again").returncode == 0
    assert digest_file(tmp_path / "again") == digest_file(tmp_path / "w")


def test_the_real_command_prints_its_report_and_fails(
    run_cli: RunCli, tmp_path: Path, clean: list[Row | str]
) -> None:
    plant_malformed(clean)
    write_rows(tmp_path / "own" / "calibration.jsonl", clean)
    done = run_cli("calibration", "lint", "own")
    assert done.returncode == 8
    assert "\n✗ rows  " in done.stdout
    assert done.stdout.endswith("not fit: 1 error, 0 warnings\n")
    assert done.stderr == "unsuitable input: data set own is not fit: 1 error, 0 warnings\n"


@pytest.mark.full
def test_1200_documents_are_linted_in_20_seconds(run_here: RunHere, tmp_path: Path) -> None:
    rows: list[Row | str] = []
    originals = [row["text"] for row in read_rows("calibration") if "text" in row]
    for number in range(1200):
        text = originals[number % len(originals)]
        step = 7 + 2 * (number // len(originals))
        rows.append({"text": text[number % step :: step] * step})  # other sequences every time
    (tmp_path / "own").mkdir()
    write_rows(tmp_path / "own" / "calibration.jsonl", rows)
    write_rows(tmp_path / "own" / "heldout.jsonl", [*read_rows("heldout")])
    started = time.process_time()
    run_here("calibration", "lint", "own", "--tokenizer", TINY_MODEL)
    assert time.process_time() - started < 20
