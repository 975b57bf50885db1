"""Where the benchmarks' tables stand in docs/benchmarks.md."""

from types import ModuleType

import pytest

from tests.benchmarks.test_calibration_study import load_script

BEGIN, END = "<!-- memory: begin -->", "<!-- memory: end -->"


@pytest.fixture
def results_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("results_page", monkeypatch)


def test_what_stands_around_the_markers_is_kept(results_page: ModuleType) -> None:
    replace = results_page.replace_between_markers
    page = f"# Page\n\n{BEGIN}\nold\n{END}\n\n<!-- other: begin -->\n<!-- other: end -->\n"
    once = replace(page, "memory", "new")
    assert once == page.replace("old", "new")
    assert replace(once, "memory", "new") == once
    for broken in ("# Page\n", f"{END}\n{BEGIN}\n", page + BEGIN, page + END):
        with pytest.raises(ValueError, match="once each"):
            replace(broken, "memory", "new")


@pytest.mark.parametrize("name", ["gptq_peers", "variants", "memory"])
def test_the_page_has_a_place_for_every_table(results_page: ModuleType, name: str) -> None:
    text = results_page.PAGE.read_text(encoding="utf-8")
    assert "\nnew\n" in results_page.replace_between_markers(text, name, "new")


def test_a_table_is_markdown(results_page: ModuleType) -> None:
    assert (
        results_page.format_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    )
