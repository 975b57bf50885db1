"""Coverage of a field's terms, and the list that comes with apparel-ja."""

import json
from collections import Counter
from pathlib import Path

import pytest

from llmopt.data.lint.terms import TermList, list_missing, read_terms, report_coverage
from llmopt.errors import InputError
from tests.data.lint.rows import SHIPPED, read_shipped

TERMS = TermList.model_validate(
    {
        "field": "apparel",
        "groups": {
            "fastener": [
                {"ja": "ファスナー", "en": "zipper", "variants": ["チャック"]},
                {"ja": "力ボタン", "en": "backing button"},
            ],
            "seam": [{"ja": "袋縫い", "en": "French seam"}],
        },
    }
)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", ["ファスナー", "力ボタン", "袋縫い"]),
        ("ﾌｧｽﾅｰを付け、袋縫いで始末する", ["力ボタン"]),
        ("チャック付き", ["力ボタン", "袋縫い"]),
        ("Zippers and FRENCH SEAMS", ["力ボタン"]),
        ("unzippered; frenchseam", ["ファスナー", "力ボタン", "袋縫い"]),
        ("zipper2", ["ファスナー", "力ボタン", "袋縫い"]),
    ],
)
def test_a_term_counts_in_any_spelling(text: str, missing: list[str]) -> None:
    groups = list_missing(["前置き", text], TERMS)
    assert [name for names in groups.values() for name in names] == missing


def test_coverage_under_one_half_is_a_warning() -> None:
    finding = report_coverage(["袋縫い"], TERMS)
    assert finding.severity == "warning"
    assert finding.message == "1 of 3 apparel terms occur (33%)"
    (place,) = finding.rows
    assert (place.origin, place.detail) == ("fastener", "0 of 2; missing: ファスナー 力ボタン")
    assert report_coverage(["袋縫い、力ボタン"], TERMS).severity == "info"


def test_the_shipped_list() -> None:
    terms = read_terms(SHIPPED / "terms.json")
    names = [
        name
        for group in terms.groups.values()
        for term in group
        for name in {term.ja, term.en, *term.variants}
    ]
    assert sum(map(len, terms.groups.values())) >= 250
    assert {
        "fastener", "interlining", "stitch", "seam", "care", "fastness", "fabric", "fibre", "size",
        "inspection", "pattern", "packaging",
    } <= set(terms.groups)  # fmt: skip
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert all(name == name.strip() != "" for name in names)
    assert report_coverage((row.text for row in read_shipped("calibration")), terms).severity == (
        "info"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"t\.json is not JSON in UTF-8"),
        ("[]", r"t\.json: .*valid dictionary"),
        ('{"field": "x", "groups": {}}', r"t\.json: groups: "),
        ('{"field": "x", "groups": {"a": [{"ja": "袖"}]}}', r"groups\.a\.0\.en: Field required"),
        ('{"field": "x", "groups": {"a": [{"ja": "", "en": "y"}]}}', r"groups\.a\.0\.ja: "),
        (json.dumps({"field": "x", "groups": {"a": []}, "b": 1}), r"t\.json: b: Extra"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_terms(path)
    with pytest.raises(InputError, match="does not exist"):
        read_terms(tmp_path / "nowhere.json")
