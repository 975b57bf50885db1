"""Mixes: exact shares, every part packed as it would be alone, an order of the seed alone."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmopt.data.calibration_windows import build_windows
from llmopt.data.dataset_spec import DatasetSpec, share_out
from llmopt.data.documents import Document, order_documents
from llmopt.data.mixture import LoadedPart, build_mixed_windows, select_documents
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError
from tests.models import TINY_MODEL

TOKENIZER = DocumentTokenizer(TINY_MODEL)
WORKS = {"a": "前身頃に芯を貼る", "b": "cut the lining", "c": "ボタンを付ける"}


def make_part(name: str, count: int = 30) -> LoadedPart:
    texts = [f"{index}番、" + f"{WORKS[name]}{index}回。" * 3 for index in range(count)]
    return LoadedPart(name, [Document(f"{name}:{i}", name, text=t) for i, t in enumerate(texts)])


def make_spec(weights: Sequence[float], **fields: Any) -> DatasetSpec:
    mix = [{"path": f"{index}.jsonl", "weight": weight} for index, weight in enumerate(weights)]
    return DatasetSpec.model_validate({"path": "d.jsonl", "mix": mix, **fields})


PARTS = [make_part("a"), make_part("b"), make_part("c")]
some_weights = st.lists(st.floats(0.01, 1), min_size=1, max_size=6).map(
    lambda raw: [weight / sum(raw) for weight in raw]
)


@given(total=st.integers(0, 5000), weights=some_weights)
def test_shares_add_up_and_are_off_by_less_than_one(total: int, weights: list[float]) -> None:
    counts = share_out(total, weights)
    assert sum(counts) == total
    assert all(abs(n - total * w) < 1 + 1e-6 for n, w in zip(counts, weights, strict=True))


@pytest.mark.parametrize(
    ("total", "weights", "counts"),
    [
        (10, [0.5, 0.25, 0.25], [5, 3, 2]),  # equal remainders: the first part
        (3, [1 / 3, 1 / 3, 1 / 3], [1, 1, 1]),
        (100, [1 - 0.29, 0.29], [71, 29]),  # 0.29 * 100 is 28.999999999999996
        (10, [1 - 0.9, 0.9], [1, 9]),
        (7, [0.5, 0.5], [4, 3]),
    ],
)
def test_the_largest_remainder_is_rounded_up(
    total: int, weights: list[float], counts: list[int]
) -> None:
    assert share_out(total, weights) == counts


@given(
    first=st.floats(0.15, 0.4),
    second=st.floats(0.15, 0.4),
    samples=st.integers(8, 16),
    seed=st.integers(0, 5),
    pack=st.sampled_from(["concat", "pad", "truncate"]),
)
@settings(max_examples=30)
def test_each_part_gives_the_windows_that_it_would_give_alone(
    first: float, second: float, samples: int, seed: int, pack: str
) -> None:
    spec = make_spec([first, second], samples=samples, seq_len=12, seed=seed, pack=pack)
    mixed = build_mixed_windows(PARTS, TOKENIZER, spec)
    assert mixed.ids_NT.shape == (samples, 12)
    alone = []
    for part, count in zip(PARTS, share_out(samples, spec.weights()), strict=True):
        single = DatasetSpec.model_validate(
            {"path": "d.jsonl", "samples": count, "seq_len": 12, "seed": seed, "pack": pack}
        )
        alone += build_windows(part.documents, TOKENIZER, single).ids_NT.tolist()
    assert Counter(map(tuple, mixed.ids_NT.tolist())) == Counter(map(tuple, alone))


def test_windows_of_the_parts_are_interleaved() -> None:
    mixed = build_mixed_windows(PARTS[:2], TOKENIZER, make_spec([0.5], samples=16, seq_len=16))
    alone = DatasetSpec(path="d.jsonl", samples=8, seq_len=16)
    own = build_windows(PARTS[0].documents, TOKENIZER, alone).ids_NT.tolist()
    owners = "".join("a" if ids in own else "b" for ids in mixed.ids_NT.tolist())
    assert owners.count("a") == 8
    assert "ab" in owners
    assert "ba" in owners
    assert owners != "".join(sorted(owners))


def test_a_golden_digest_of_windows() -> None:
    """The order and the contents of a recipe's windows, for all time and on every machine."""
    spec = make_spec([0.25, 0.25], samples=12, seq_len=24, seed=17)
    ids_NT = build_mixed_windows(PARTS, TOKENIZER, spec).ids_NT
    digest = hashlib.sha256(ids_NT.astype("<i8").tobytes()).hexdigest()
    assert digest == "b9066b6e2a240c2786090e42d76d8e3ef4d45787d9b87e620decb5740096403a"
    plain = make_spec([], samples=12, seq_len=24, seed=17)
    ids_NT = build_mixed_windows(PARTS[:1], TOKENIZER, plain).ids_NT
    digest = hashlib.sha256(ids_NT.astype("<i8").tobytes()).hexdigest()
    assert digest == "1e8acc026236007b553ddc9ea2bc45da404a5670b13e2f2b047c65d28179b49d"


def test_a_part_that_is_too_small_is_named_with_its_share() -> None:
    spec = make_spec([0.5], samples=8, seq_len=500)
    with pytest.raises(
        InputError, match=r"^b, 4 of 8 samples: calibration wants 4 samples x 500 tokens = 2000"
    ):
        build_mixed_windows([make_part("a", 200), make_part("b", 3)], TOKENIZER, spec)


def test_a_parts_own_template_goes_before_the_data_sets() -> None:
    turns = ({"role": "user", "content": "綿"}, {"role": "assistant", "content": "はい"})
    as_set = Document("d:1", "c", messages=turns)
    own = Document("d:1", "c", messages=turns, template="chat")
    assert TOKENIZER.encode(own, "none") == TOKENIZER.encode(as_set, "chat")
    assert TOKENIZER.encode(own, "none") != TOKENIZER.encode(as_set, "none")


def test_documents_are_selected_in_the_parts_shares() -> None:
    spec = make_spec([0.3, 0.2], samples=10, seed=3)
    chosen = select_documents(PARTS, spec)
    assert Counter(document.category for document in chosen) == {"a": 5, "b": 3, "c": 2}
    assert chosen == select_documents(PARTS, spec)
    assert {d.origin for d in chosen if d.category == "b"} == {
        d.origin for d in order_documents(PARTS[1].documents, 3)[:3]
    }


def test_without_a_mix_all_documents_are_taken_or_samples_of_them() -> None:
    assert select_documents(PARTS[:1], make_spec([])) == PARTS[0].documents
    few = select_documents(PARTS[:1], make_spec([], samples=4, seed=2))
    assert few == order_documents(PARTS[0].documents, 2)[:4]
    with pytest.raises(InputError, match=r"31 documents of a are wanted \(samples\), .* holds 30"):
        select_documents(PARTS[:1], make_spec([], samples=31))


def test_a_mix_without_samples_can_not_be_evaluated_on() -> None:
    with pytest.raises(InputError, match="no samples are given"):
        select_documents(PARTS[:2], make_spec([0.5]))
