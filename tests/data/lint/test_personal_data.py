"""What looks like personal data, and what only nearly does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmopt.data.lint.personal_data import (
    find_personal_data,
    is_luhn,
    is_my_number,
    list_personal_data,
    mask,
)
from tests.data.lint.rows import list_faults, make_rows, read_shipped

CERTAIN = [
    ("phone number", "TEL 03-1234-5678"),
    ("phone number", "(03)1234-5678まで"),
    ("phone number", "フリーダイヤル0120-123-456"),
    ("phone number", "０９０１２３４５６７８"),
    ("phone number", "携帯は090 1234 5678です"),
    ("phone number", "+81 90-1234-5678"),
    ("phone number", "+819012345678"),
    ("phone number", "+84 28 3822 1234"),
    ("mail address", "宛先 taro.yamada@example.jp まで"),
    ("mail address", "ｔａｒｏ＠ｅｘａｍｐｌｅ．ｊｐ"),
    ("street address", "東京都渋谷区神南1-2-3"),
    ("street address", "納品先:東京都中央区日本橋馬喰町１－２－３ 第二ビル"),
    ("street address", "大阪府大阪市中央区本町二丁目"),
    ("street address", "愛知県一宮市栄3丁目2番1号"),
    ("street address", "埼玉県さいたま市大宮区桜木町1-7"),
    ("street address", "京都市下京区烏丸通1-2-3"),
    ("street address", "岐阜県羽島郡笠松町田代123番地"),
    ("card number", "カード 4111 1111 1111 1111"),
    ("card number", "378282246310005"),
]
POSSIBLE = [
    ("web address", "https://example.com/spec"),
    ("web address", "見本は example.com に"),
    ("web address", "www.example"),
    ("web address", "Spec.Example.CO.JP参照"),
    ("postal code", "〒123-4567"),
    ("postal code", "150-0001 渋谷"),
    ("12 digits like a My Number", "1234 5678 9018"),
    ("12 digits like a My Number", "個人番号は123456789018"),
]
HARMLESS = [
    "品番 KN-2403-0123、ロット 24-0312-07",
    "適合寸法 150-1200mm、ロール 900-1500枚",
    "2024-01-15 に出荷、納期 2024年3月29日",
    "愛知県一宮市の工場で2024-01-15に検品",
    "愛知県一宮市の毛織40番手双糸",
    "岡山県倉敷市の工場 8時間 3交代",
    "国内市場調査2024-01-15-03",
    "検査区分1-2-3、工区画2-1-4",
    "洗い方 040-110-140、JIS L 0849-2013",
    "カードではない 4111 1111 1111 1112",
    "JAN 4901234567894",
    "1234 5678 9012",
    "許容差 +1 -2、ピッチ +2 +2 +3",
    "5000m巻 60/3、入数 20、総数 1,234,567",
    "単価@850円、JIS L 1096.A法",
]


@pytest.mark.parametrize(("kind", "text"), CERTAIN + POSSIBLE)
def test_personal_data_is_found(kind: str, text: str) -> None:
    assert kind in {found.name for found, _ in list_personal_data(text)}


@pytest.mark.parametrize("text", HARMLESS)
def test_numbers_of_the_trade_are_none(text: str) -> None:
    assert [(kind.name, found) for kind, found in list_personal_data(text)] == []


def test_certain_kinds_are_errors_and_the_others_warnings() -> None:
    texts = [text for _, text in (*CERTAIN, *POSSIBLE)]
    found = find_personal_data(make_rows(*texts, *HARMLESS))
    names = [f"d.jsonl:{number}" for number in range(1, len(texts) + 1)]
    error, warning = found
    assert (error.severity, warning.severity) == ("error", "warning")
    assert [place.name for place in error.rows] == names[: len(CERTAIN)]
    assert sorted({place.name for place in warning.rows} - set(names[: len(CERTAIN)])) == sorted(
        names[len(CERTAIN) :]
    )


def test_a_report_does_not_repeat_what_it_found() -> None:
    (error, _) = find_personal_data(make_rows("電話 090-1234-5678"))
    assert error.rows[0].detail == "phone number 09*-****-****"
    assert mask("東京都渋谷区神南1-2-3") == "東京*******-*-*"


def test_a_mail_addresss_domain_is_no_web_address() -> None:
    found = [kind.name for kind, _ in list_personal_data("taro@mail.example.co.jp")]
    assert found == ["mail address"]


def test_the_shipped_texts_hold_none() -> None:
    rows = [*read_shipped("calibration"), *read_shipped("heldout")]
    assert list_faults(find_personal_data(rows)) == {}


@given(st.text("0123456789- +()@.", max_size=40))
def test_any_digits_can_be_looked_at(text: str) -> None:
    for _, found in list_personal_data(text):
        assert found in text


def test_long_runs_take_no_long_time() -> None:
    for text in ("a" * 200_000, "a-" * 100_000, "0" * 200_000, "東" * 50_000, "1-" * 100_000):
        assert list(list_personal_data(text)) == []


@given(st.lists(st.integers(0, 9), min_size=11, max_size=11))
def test_one_check_digit_of_ten_is_right(digits: list[int]) -> None:
    number = "".join(map(str, digits))
    assert sum(is_my_number(f"{number}{last}") for last in range(10)) == 1
    assert sum(is_luhn(f"{number}{last}") for last in range(10)) == 1
