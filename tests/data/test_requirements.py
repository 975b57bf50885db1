"""What a recipe requires of documents: a miss names the numbers and the worst offender."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from llmopt.data.dataset_spec import DataRequirements, DatasetSpec
from llmopt.data.documents import Document
from llmopt.data.requirements import check_documents, check_tokens, require_samples
from llmopt.errors import InputError

JAPANESE, ENGLISH = "前身頃に芯を貼り、寸法を測る。", "Fuse the front body and measure it."
LONG = "".join(chr(0x4E00 + index) for index in range(69))  # 40 distinct sequences of 30


def make_documents(*texts: str, name: str = "d.jsonl") -> list[Document]:
    return [Document(f"{name}:{n}", "c", text=text) for n, text in enumerate(texts, start=1)]


def check(
    texts: Sequence[str], others: Mapping[str, Sequence[Document]] | None = None, **require: Any
) -> None:
    requirements = DataRequirements.model_validate(require)
    check_documents(make_documents(*texts), requirements, others or {})


def test_what_is_met_passes() -> None:
    heldout = make_documents(LONG, name="h.jsonl")
    check(
        [JAPANESE] * 3 + [ENGLISH, LONG[:33]],
        {"heldout": heldout},
        min_rows=5,
        min_japanese_share=0.8,
        max_overlap={"heldout": 0.1},  # 4 of 40
    )
    check([""])


@pytest.mark.parametrize(
    ("texts", "require", "message"),
    [
        ([JAPANESE], {"min_rows": 2}, "it holds 1 documents, require.min_rows is 2"),
        (
            [JAPANESE, ENGLISH, "綿 cotton", ENGLISH],
            {"min_japanese_share": 0.5},
            "1 of 4 documents (25.0%) are Japanese, require.min_japanese_share is 50.0%; least so "
            "is d.jsonl:2: 0.0% of its characters are kana or kanji",
        ),
        (
            [LONG[:35], ENGLISH],
            {"max_overlap": {"heldout": 0.14}},
            "it holds 15.0% of the 30-character sequences of h.jsonl:2 in data set heldout, "
            "require.max_overlap.heldout is 14.0%; 1 of 2 documents exceed it",
        ),
    ],
)
def test_a_miss_names_the_numbers_and_the_worst(
    texts: list[str], require: dict[str, Any], message: str
) -> None:
    heldout = make_documents(ENGLISH[::-1], LONG, name="h.jsonl")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        check(texts, {"heldout": heldout}, **require)
    assert caught.value.exit_code == 8


def test_short_documents_are_counted_and_the_shortest_named() -> None:
    documents = make_documents("a", "b", "c")
    check_tokens(documents, [5, 9, 5], DataRequirements(min_document_tokens=5))
    with pytest.raises(
        InputError,
        match=r"^2 of 3 documents have fewer than 6 tokens \(require\.min_document_tokens\); "
        r"the shortest is d\.jsonl:3 with 4$",
    ):
        check_tokens(documents, [5, 9, 4], DataRequirements(min_document_tokens=6))


def test_a_mix_to_be_scored_says_its_size() -> None:
    mix = [{"set": "apparel-ja", "weight": 0.5}]
    require_samples(DatasetSpec.model_validate({"path": "d.jsonl", "mix": mix, "samples": 4}))
    require_samples(DatasetSpec(path="d.jsonl"))
    with pytest.raises(InputError, match="no samples are given"):
        require_samples(DatasetSpec.model_validate({"path": "d.jsonl", "mix": mix}))
