"""Lengths in tokens, and tokens that are no whole character, for both kinds of tokenizer."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmopt.data.lint.finding import Finding
from llmopt.data.lint.tokens import TokenCounter, TokenCounts, measure_lengths, report_tokens
from llmopt.data.tokenization import DocumentTokenizer
from tests.data.lint.rows import find, list_faults, make_rows, read_shipped
from tests.models import TINY_MODEL, edit_json

SOUND = "前身頃に芯を貼り、袖口を縫製する。"
RARE = "鱻驫麤龘靐齉爩鸞籲灪"


@pytest.fixture(scope="module")
def tiny_tokenizer() -> DocumentTokenizer:
    return DocumentTokenizer(TINY_MODEL)


@pytest.fixture(scope="module")
def byte_level_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    """A byte-level BPE that knows the words of one sentence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SOUND] * 20, trainer)
    folder = tmp_path_factory.mktemp("byte-level")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return DocumentTokenizer(folder)


def test_tokens_are_counted_with_bos(tiny_tokenizer: DocumentTokenizer) -> None:
    (row,) = make_rows(SOUND)
    counts = TokenCounter(tiny_tokenizer).count(row)
    assert counts == TokenCounts(len(tiny_tokenizer.encode(row.document)), 0, 0)
    assert counts.total > 1


def test_byte_tokens_of_a_byte_fallback_vocabulary(tiny_tokenizer: DocumentTokenizer) -> None:
    counter = TokenCounter(tiny_tokenizer)
    (row,) = make_rows(RARE)
    counts = counter.count(row)
    assert counts.total == 1 + 3 * len(RARE)
    assert counts.bytes == 3 * len(RARE)
    bytes_known = sum(counter.is_byte(token) for token in range(len(tiny_tokenizer)))
    assert bytes_known == 256


def test_byte_tokens_of_a_byte_level_vocabulary(byte_level_tokenizer: DocumentTokenizer) -> None:
    counter = TokenCounter(byte_level_tokenizer)
    sound, rare, latin = (counter.count(row) for row in make_rows(SOUND, RARE, "abc"))
    assert (sound.total, sound.bytes) == (len(SOUND), 0)
    assert rare.bytes > len(RARE)
    assert latin.bytes == 0


def test_lengths() -> None:
    lengths = measure_lengths([TokenCounts(total, 0, 0) for total in (5, 1, 3, 2, 100)])
    assert lengths == {"min": 1, "median": 3, "p95": 100, "max": 100, "total": 111}
    assert measure_lengths([]) == dict.fromkeys(lengths, 0)


def test_a_tokenizer_that_hardly_knows_the_language_is_warned_of(
    tiny_tokenizer: DocumentTokenizer,
) -> None:
    rows = make_rows(SOUND, RARE)
    findings = report_tokens(rows, tiny_tokenizer)
    assert list_faults(findings) == {"byte-fallback": ["d.jsonl:2"]}
    assert find(findings, "byte-fallback").rows[0].detail == "97% of 31 tokens"
    assert list_faults(report_tokens(make_rows(SOUND), tiny_tokenizer)) == {}


def test_unknown_tokens_are_warned_of(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY_MODEL / name, tmp_path / name)
    model = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json")).to_str()
    (tmp_path / "tokenizer.json").write_text(
        model.replace('"byte_fallback":true', '"byte_fallback":false'), encoding="utf-8"
    )
    edit_json(tmp_path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    findings = report_tokens(make_rows(SOUND, RARE), DocumentTokenizer(tmp_path))
    assert list_faults(findings) == {"unknown-tokens": ["d.jsonl:2"]}


@pytest.mark.parametrize("split", ["calibration", "heldout"])
def test_the_shipped_set_suits_the_tiny_model(
    tiny_tokenizer: DocumentTokenizer, split: str
) -> None:
    findings: list[Finding] = report_tokens(read_shipped(split), tiny_tokenizer)
    assert list_faults(findings) == {}
    assert ", total " in find(findings, "tokens").message
