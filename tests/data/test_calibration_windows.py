"""Calibration windows: exact shapes, every token once and in order, numbers named if too few."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmopt.data.calibration_windows import build_windows
from llmopt.data.dataset_spec import DatasetSpec, Packing
from llmopt.data.documents import Document, order_documents, read_documents
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError
from tests.models import TINY_MODEL, edit_json

BOS, EOS = 1, 2
TOKENIZER = DocumentTokenizer(TINY_MODEL)
some_texts = st.lists(
    st.text(alphabet="前身頃後袖衿に芯を貼るabc 12。\n", max_size=60), min_size=1, max_size=12
)


def make_documents(texts: Sequence[str]) -> list[Document]:
    return [Document(f"d:{index}", "c", text=text) for index, text in enumerate(texts)]


def make_spec(samples: int, seq_len: int, pack: Packing = "concat", seed: int = 0) -> DatasetSpec:
    return DatasetSpec(path="d.jsonl", samples=samples, seq_len=seq_len, pack=pack, seed=seed)


def encode_in_order(documents: Sequence[Document], seed: int) -> list[list[int]]:
    return [TOKENIZER.encode(document) for document in order_documents(documents, seed)]


@given(texts=some_texts, seq_len=st.integers(2, 40), seed=st.integers(0, 3))
def test_concat_takes_every_token_once_and_in_order(
    texts: list[str], seq_len: int, seed: int
) -> None:
    documents = make_documents(texts)
    stream = [token for ids in encode_in_order(documents, seed) for token in ids]
    num_windows = len(stream) // seq_len
    assume(num_windows)
    windows = build_windows(documents, TOKENIZER, make_spec(num_windows, seq_len, seed=seed))
    assert windows.ids_NT.shape == (num_windows, seq_len)
    assert windows.ids_NT.dtype == np.int64
    assert windows.ids_NT.ravel().tolist() == stream[: num_windows * seq_len]
    assert windows.lengths_N.tolist() == [seq_len] * num_windows
    assert windows.num_tokens == num_windows * seq_len
    with pytest.raises(InputError, match=re.escape(f"documents give {len(stream)}")):
        build_windows(documents, TOKENIZER, make_spec(num_windows + 1, seq_len, seed=seed))


@given(texts=some_texts, seq_len=st.integers(2, 40), seed=st.integers(0, 3))
def test_truncate_takes_the_heads_of_long_documents(
    texts: list[str], seq_len: int, seed: int
) -> None:
    documents = make_documents(texts)
    heads = [ids[:seq_len] for ids in encode_in_order(documents, seed) if len(ids) >= seq_len]
    assume(heads)
    windows = build_windows(documents, TOKENIZER, make_spec(len(heads), seq_len, "truncate", seed))
    assert windows.ids_NT.tolist() == heads
    assert windows.lengths_N.tolist() == [seq_len] * len(heads)


@given(texts=some_texts, seq_len=st.integers(2, 40), seed=st.integers(0, 3))
def test_pad_takes_the_heads_of_all_documents_and_says_how_long_they_are(
    texts: list[str], seq_len: int, seed: int
) -> None:
    documents = make_documents(texts)
    heads = [ids[:seq_len] for ids in encode_in_order(documents, seed) if len(ids) >= 2]
    assume(heads)
    windows = build_windows(documents, TOKENIZER, make_spec(len(heads), seq_len, "pad", seed))
    assert windows.ids_NT.shape == (len(heads), seq_len)
    real = [row[:n].tolist() for row, n in zip(windows.ids_NT, windows.lengths_N, strict=True)]
    assert real == heads
    assert windows.num_tokens == sum(map(len, heads))
    padding = [row[n:].any() for row, n in zip(windows.ids_NT, windows.lengths_N, strict=True)]
    assert not any(padding)


def test_defaults_are_64_samples_of_512_tokens() -> None:
    documents = make_documents(["前身頃に芯を貼る。" * 100] * 60)
    windows = build_windows(documents, TOKENIZER, DatasetSpec(path="d.jsonl"))
    assert windows.ids_NT.shape == (64, 512)


def test_seeds_repeat_and_differ(documents: Path) -> None:
    read = read_documents(documents)

    def windows(seed: int) -> list[list[int]]:
        return build_windows(read, TOKENIZER, make_spec(8, 64, seed=seed)).ids_NT.tolist()

    assert windows(0) == windows(0)
    assert windows(0) != windows(1)
    assert windows(1) != windows(2)


def test_each_document_of_a_window_begins_with_bos(documents: Path) -> None:
    read = read_documents(documents)
    total = sum(len(ids) for ids in encode_in_order(read, 0))
    ids = build_windows(read, TOKENIZER, make_spec(1, total)).ids_NT[0]
    assert ids[0] == BOS
    assert (ids == BOS).sum() == len(read)


@pytest.fixture(scope="module")
def without_bos(tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    """A tokenizer that adds no BOS."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_MODEL / name, folder / name)
    edit_json(folder / "tokenizer.json", post_processor=None)
    return DocumentTokenizer(folder)


@given(texts=some_texts, seq_len=st.integers(2, 40), seed=st.integers(0, 3))
def test_separators_part_all_documents_and_no_token_is_lost(
    without_bos: DocumentTokenizer, texts: list[str], seq_len: int, seed: int
) -> None:
    documents = make_documents(texts)
    ordered = order_documents(documents, seed)
    stream = [token for d in ordered for token in [*without_bos.encode(d), EOS]]
    num_windows = len(stream) // seq_len
    assume(num_windows)
    windows = build_windows(documents, without_bos, make_spec(num_windows, seq_len, seed=seed))
    assert windows.ids_NT.ravel().tolist() == stream[: num_windows * seq_len]
    assert windows.ids_NT.shape == (num_windows, seq_len)


def test_without_bos_documents_end_with_eos(
    without_bos: DocumentTokenizer, documents: Path
) -> None:
    tokenizer = without_bos
    read = read_documents(documents)[:5]
    total = sum(len(tokenizer.encode(document)) + 1 for document in read)
    ids = build_windows(read, tokenizer, make_spec(1, total)).ids_NT[0]
    assert (ids == EOS).sum() == 5
    assert ids[-1] == EOS
    assert not (ids == BOS).any()


@pytest.mark.parametrize(
    ("spec", "message", "remedy"),
    [
        (
            make_spec(4, 64),
            "calibration wants 4 samples x 64 tokens = 256 tokens; the 3 documents give 195",
            "use samples: 3 or fewer",
        ),
        (
            make_spec(1, 512),
            "calibration wants 1 samples x 512 tokens = 512 tokens; the 3 documents give 195",
            "give more data or a smaller seq_len",
        ),
        (
            make_spec(4, 8, "pad"),
            "calibration wants 4 samples; of 3 documents 3 have at least 2 tokens",
            "use fewer samples",
        ),
        (
            make_spec(3, 66, "truncate"),
            "calibration wants 3 samples; of 3 documents 0 have at least 66 (seq_len) tokens",
            "`pack: concat`",
        ),
    ],
)
def test_too_little_data_is_refused_with_the_numbers(
    spec: DatasetSpec, message: str, remedy: str
) -> None:
    documents = make_documents(["7" * 64] * 3)
    assert [len(TOKENIZER.encode(document)) for document in documents] == [65, 65, 65]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build_windows(documents, TOKENIZER, spec)
    assert caught.value.remedy is not None
    assert remedy in caught.value.remedy


def test_empty_documents_are_too_little_data() -> None:
    with pytest.raises(InputError, match="the 2 documents give 2"):
        build_windows(make_documents(["", ""]), TOKENIZER, make_spec(1, 8))
