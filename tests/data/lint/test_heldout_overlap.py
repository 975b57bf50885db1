"""Held-out documents that the set holds, whole or in part."""

from llmopt.data.lint.heldout_overlap import find_overlap
from tests.data.lint.rows import list_faults, make_rows, read_shipped


def test_a_leaked_document_is_found_with_the_row_that_holds_it() -> None:
    rows, heldout = read_shipped("calibration"), read_shipped("heldout")
    assert list_faults([find_overlap(rows, heldout)]) == {}
    whole, part = heldout[3], heldout[8]
    quote = part.text[: len(part.text) // 2]
    planted = make_rows(whole.text, "序文。" + quote + "。以上")
    finding = find_overlap([*rows, *planted], heldout)
    assert finding.severity == "error"
    assert list_faults([finding]) == {"heldout-overlap": ["heldout.jsonl:4", "heldout.jsonl:9"]}
    assert finding.rows[0].detail == "100% of it, most in d.jsonl:1"
    assert finding.rows[1].detail.endswith("% of it, most in d.jsonl:2")
    assert finding.message.startswith(f"2 of {len(heldout)} held-out documents have over 10%")


def test_form_is_no_overlap() -> None:
    table = "| 部位 | S | M | L |\n|---|---|---|---|\n"
    chart = '{"size_chart_of_the_finished_garment": {"body_length_in_centimetres": '
    rows = make_rows(table + "前身頃の寸法", chart + "68}}")
    heldout = make_rows(table + "検針の記録を残す", chart + "71}}")
    assert find_overlap(rows, heldout).severity == "info"


def test_without_a_held_out_set_nothing_is_claimed() -> None:
    finding = find_overlap(make_rows("前身頃"), [])
    assert (finding.severity, finding.message) == ("info", "not checked: no held-out set given")
