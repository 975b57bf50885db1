"""Duplicates: exact after NFKC and whitespace, near by true Jaccard similarity."""

from hypothesis import given
from hypothesis import strategies as st

from llmopt.data.lint.duplicates import (
    NEAR_THRESHOLD,
    SHINGLE_LENGTH,
    find_duplicates,
    measure_similarity,
    normalize,
)
from llmopt.data.text_measures import list_sequences
from tests.data.lint.rows import list_faults, make_rows, read_shipped

LONG = "前身頃の寸法は着丈六十八センチ、身幅五十四センチ、肩幅四十五センチとし、許容差を守ること。"
OTHER = "検針は出荷の前に全数を行い、記録に日付と担当者の名前を残してから箱に詰めて封をする。"


def test_documents_that_differ_in_form_alone_are_the_same() -> None:
    rows = make_rows("寸法 10cm\n着丈", OTHER, "寸法 10cm 着丈", "寸法10cm着丈\n", "寸法11cm着丈")
    exact, near = find_duplicates(rows)
    assert list_faults([exact]) == {"duplicates": ["d.jsonl:3", "d.jsonl:4"]}
    assert exact.severity == "error"
    assert {place.detail for place in exact.rows} == {"same as d.jsonl:1"}
    assert list_faults([near]) == {}


def test_near_duplicates_name_the_document_most_like_them() -> None:
    changed = LONG.replace("六十八", "七十一")
    exact, near = find_duplicates(make_rows(LONG * 3, OTHER, LONG * 2 + changed, OTHER + LONG))
    assert list_faults([exact]) == {}
    assert list_faults([near]) == {"near-duplicates": ["d.jsonl:3"]}
    assert near.severity == "warning"
    assert near.rows[0].detail.endswith("% like d.jsonl:1")


@given(
    text=st.text(alphabet="前後身頃袖衿縫貼る。", min_size=60, max_size=120),
    cut=st.integers(0, 50),
    tail=st.text(alphabet="検針箱詰封日付", max_size=30),
)
def test_a_pair_is_near_exactly_when_its_similarity_says_so(text: str, cut: int, tail: str) -> None:
    first, second = text, text[cut:] + tail
    similarity = measure_similarity(
        set(list_sequences(first, SHINGLE_LENGTH)), set(list_sequences(second, SHINGLE_LENGTH))
    )
    exact, near = find_duplicates(make_rows(first, second))
    same = normalize(first) == normalize(second)
    assert bool(list_faults([exact])) == same
    assert bool(list_faults([near])) == (similarity >= NEAR_THRESHOLD and not same)


def test_similarity_is_jaccards() -> None:
    assert measure_similarity({"a", "b", "c"}, {"b", "c", "d"}) == 0.5
    assert measure_similarity({"a"}, {"b"}) == 0.0
    assert measure_similarity(set(), set()) == 1.0


def test_a_hundred_near_copies_are_all_found() -> None:
    rows = read_shipped("heldout")[:50]
    texts = [row.text for row in rows if len(row.text) > 300]
    copies = [text[:100] + "変更" + text[100:] for text in texts]
    exact, near = find_duplicates(make_rows(*texts, *copies))
    assert list_faults([exact]) == {}
    expected = [f"d.jsonl:{len(texts) + number}" for number in range(1, len(copies) + 1)]
    assert list_faults([near]) == {"near-duplicates": expected}
