"""Measures of texts: what counts as Japanese, and what two sets share beyond their form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.data.text_measures import (
    OVERLAP_LENGTH,
    collapse,
    collect_sequences,
    is_japanese,
    list_sequences,
    measure_overlap,
)

SENTENCE = (
    "前身頃の接着芯は裾から二センチ上で裁ち落とし、"
    "見返しの端は三つ巻きロックで始末してから本縫いに回す。"
)
some_text = st.text(alphabet='前身頃ab12 \n#|-:"{},', max_size=80)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("前身頃", True),
        ("ボタンホール 12mm", True),
        ("綿 100% cotton plain weave", False),
        ("芯地ab1234", False),  # 2 of 8
        ("芯地々ab1234", True),  # 3 of 9 is over 30 %
        ("芯地芯abcdefg", False),  # 3 of 10 is not over
        ("芯 \n\t　 a1", True),  # whitespace does not count
        ("", False),
    ],
)
def test_japanese_is_over_30_percent_kana_and_kanji(text: str, expected: bool) -> None:
    assert is_japanese(text) is expected


@pytest.mark.parametrize(
    ("text", "collapsed"),
    [
        ("# 仕様書\n\n表地 綿\n### 付属\nボタン", "表地綿ボタン"),
        ("品番 #3 のファスナー", "品番#3のファスナー"),
        ("#タグ", "#タグ"),
        ("| 項目 | 寸法 |\n|---|:---:|\n| 着丈 | 70 |", "|項目|寸法||着丈|70|"),
        ("着丈 | 身幅\n--- | ---\n70 | 52", "着丈|身幅70|52"),
        ('{"品番": "KN-1", "寸法": {"着丈": 70.5, "許容差": [1, 2]}}', "KN-170.512"),
        ('{"a\\"b": "c"}', "c"),
        ("折り返した\n  文章", "折り返した文章"),
        ("# 見出しだけ", ""),
    ],
)
def test_form_is_left_out(text: str, collapsed: str) -> None:
    assert collapse(text) == collapsed


def test_a_copy_in_another_form_is_still_found() -> None:
    known = collect_sequences([f'{{"工程": "{SENTENCE}", "番号": 3}}'])
    wrapped = "# 縫製\n" + "\n  ".join(SENTENCE[i : i + 7] for i in range(0, len(SENTENCE), 7))
    assert measure_overlap(wrapped, known) == 1.0


def test_shared_headings_and_keys_are_no_overlap() -> None:
    heading = "## 縫製仕様書の付属一覧と寸法表および許容差に関する取り決めの一覧、改訂第三版\n"
    key = '{"縫製仕様書の付属一覧と寸法表および許容差に関する取り決めの一覧、改訂第三版": '
    known = collect_sequences([heading + "綿の平織", key + '"麻"}'])
    assert measure_overlap(heading + "毛の綾織", known) == 0.0
    assert measure_overlap(key + '"絹"}', known) == 0.0


def test_overlap_is_the_share_of_distinct_sequences() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(OVERLAP_LENGTH + 3))  # 4 sequences
    assert measure_overlap(text, collect_sequences([text[:-3]])) == 0.25
    assert measure_overlap(text, collect_sequences([text[1:]])) == 0.75
    assert measure_overlap(text, set()) == 0.0
    assert measure_overlap("", collect_sequences([""])) == 0.0


def test_a_short_text_is_one_sequence() -> None:
    assert list(list_sequences("短い", 30)) == ["短い"]
    assert list(list_sequences("あいうえ", 3)) == ["あいう", "いうえ"]
    assert list(list_sequences("", 3)) == []
    assert measure_overlap("短い", collect_sequences(["短い"])) == 1.0


@given(texts=st.lists(some_text, max_size=5), other=some_text)
def test_keeping_only_wanted_sequences_changes_no_overlap(texts: list[str], other: str) -> None:
    wanted = collect_sequences([other])
    few = collect_sequences(texts, wanted)
    assert few == collect_sequences(texts) & wanted
    assert measure_overlap(other, few) == measure_overlap(other, collect_sequences(texts))
    assert measure_overlap(other, wanted) == (1.0 if collapse(other) else 0.0)
