"""The shipped tasks: made by their script, varied, and their facts in the prompts."""

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmopt.data.task_items import CHECK_KINDS, locate_shipped_tasks, read_tasks
from tests.models import REPOSITORY

FOLDER = REPOSITORY / "calibration" / "techpack-tasks"
ITEMS = read_tasks(locate_shipped_tasks())
LENGTH = 8  # characters of the sequences that are counted


def read_source(kind: str) -> list[dict[str, Any]]:
    lines = (FOLDER / "source" / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def numbers_in(text: str) -> set[Decimal]:
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", unicodedata.normalize("NFKC", text))
    return {Decimal(number) for number in re.findall(r"\d+(?:\.\d+)?", plain)}


def test_the_script_makes_the_same_bytes(tmp_path: Path) -> None:
    copied = tmp_path / "techpack-tasks"
    shutil.copytree(FOLDER, copied, ignore=shutil.ignore_patterns("tasks.jsonl"))
    subprocess.run([sys.executable, copied / "make_tasks.py"], check=True, cwd=tmp_path)
    assert (copied / "tasks.jsonl").read_bytes() == (FOLDER / "tasks.jsonl").read_bytes()


def test_there_are_enough_of_every_kind() -> None:
    kinds = Counter(item.check.kind for item in ITEMS)
    assert len(ITEMS) >= 120
    assert set(kinds) == set(CHECK_KINDS)
    assert min(kinds.values()) >= 30
    assert all(len(set(item.distractors)) >= 3 for item in ITEMS)
    languages = Counter(item.lang for item in ITEMS)
    assert set(languages) == {"ja", "en", "ja-en"}
    assert 0.6 <= languages["ja"] / len(ITEMS) <= 0.95


def test_the_prompts_are_written_not_stamped() -> None:
    prompts = [re.sub(r"\s", "", item.messages[0].content) for item in ITEMS]
    sequences = Counter(
        prompt[start : start + LENGTH] for prompt in prompts for start in range(len(prompt) - 7)
    )
    once = sum(count for count in sequences.values() if count == 1)
    assert once / sequences.total() > 0.85
    # No sentence, its figures left out, opens or closes more than 5 % of the prompts.
    for cut in (slice(None, 12), slice(-12, None)):
        shapes = Counter(re.sub(r"\d", "", prompt)[cut] for prompt in prompts)
        assert shapes.most_common(1)[0][1] <= 0.05 * len(prompts)


def test_right_labels_stand_at_every_place() -> None:
    places = Counter(row["labels"].index(row["label"]) for row in read_source("choice"))
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) <= 0.5 * places.total()


@pytest.mark.parametrize("row", read_source("copy"), ids=lambda row: row["id"])
def test_quantities_to_copy_stand_in_the_prompt(row: dict[str, Any]) -> None:
    for number, unit in row["quantities"]:
        assert re.search(rf"(?<![\d.]){re.escape(number)} ?{re.escape(unit)}", row["prompt"])


@pytest.mark.parametrize("row", read_source("grading"), ids=lambda row: row["id"])
def test_what_a_chart_is_graded_from_stands_in_the_prompt(row: dict[str, Any]) -> None:
    said = numbers_in(row["prompt"])
    for measure in row["measures"].values():
        assert Decimal(measure["base"]) in said
        steps = measure["steps"]
        for step in [steps] if isinstance(steps, str) else steps:
            # A step of nothing is said in words; two charts give neighbours in its place.
            known = {*said, Decimal(0), *(high - low for high in said for low in said)}
            assert abs(Decimal(step)) in known
    for size in (row["sizes"][0], row["sizes"][-1]):  # "XS から XL まで" names no size between
        assert size in row["prompt"]


def test_graded_charts_grade() -> None:
    charts = {item.id: item.check.rows for item in ITEMS if item.check.kind == "grading"}
    assert charts["grading-01"] == (
        ("S", "72", "53.5"), ("M", "74", "56"), ("L", "76", "58.5"), ("XL", "78", "61"),
    )  # fmt: skip
    assert charts["grading-08"] == (
        ("L", "108", "86.5"),
        ("M", "105.5", "85"),
        ("S", "103", "83.5"),
    )
    assert charts["grading-18"] == (("S", "150"), ("M", "156"), ("L", "162"), ("LL", "167"))
    assert charts["grading-31"] == (("L", "88.5", "64"), ("LL", "90.5", "67"), ("EL", "92.5", "70"))


def test_sums_and_products_in_json_answers_are_right() -> None:
    answers = {row["id"]: row["answer"] for row in read_source("json")}
    assert sum(fibre["percent"] for fibre in answers["json-02"]["fibres"]) == 100
    assert sum(answers["json-09"]["carton"].values()) == answers["json-09"]["total"]
    cost = dict(answers["json-15"])
    assert cost.pop("total") == sum(cost.values())
    cartons = answers["json-23"]
    assert cartons["cartons"] * cartons["pieces_per_carton"] == cartons["total_pieces"]
    colours = answers["json-30"]
    assert sum(c["quantity"] for c in colours["colourways"]) == colours["total_quantity"]
    wash = answers["json-31"]
    assert wash["before_cm"] - wash["after_cm"] == pytest.approx(wash["loss_cm"])
    assert 100 * wash["loss_cm"] / wash["before_cm"] == pytest.approx(wash["shrinkage_percent"])
    for part in answers["json-35"].values():
        assert sum(part.values()) == 100
    minor = [d["count"] for d in answers["json-21"]["defects"] if d["class"] == "minor"]
    assert sum(minor) == answers["json-21"]["minor_total"]
    for point in answers["json-22"].values():
        assert point["actual"] - point["spec"] == pytest.approx(point["difference"])


@pytest.mark.parametrize("row", read_source("json"), ids=lambda row: row["id"])
def test_figures_of_json_answers_stand_in_the_prompt_or_are_computed(row: dict[str, Any]) -> None:
    computed = {"total", "total_pieces", "total_quantity", "difference", "loss_cm",
                "shrinkage_percent", "minor_total", "major_total", "sample_fee_jpy"}  # fmt: skip
    said = numbers_in(row["prompt"])

    def check(key: str, node: Any) -> None:
        if isinstance(node, dict | list):
            pairs = node.items() if isinstance(node, dict) else ((key, value) for value in node)
            for name, value in pairs:
                check(name, value)
        elif not isinstance(node, bool) and key not in computed:
            # Dates are said in Japanese; their parts stand there without a leading zero.
            assert {abs(n) for n in numbers_in(str(node))} <= said

    check("", row["answer"])
