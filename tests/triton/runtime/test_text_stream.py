"""Text of tokens while they come: whole characters, stop texts, nothing lost; real tokenizers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from llmopt.triton.runtime.generate.text_stream import REPLACEMENT, TextStream
from tests.models import TINY_MODEL

TEXT = "袖口の縫製仕様:綿100%、👕は右前。Été 2026\n身幅±1cm 𠮷田"


def trained(tiny_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model / "tokenizer.json"))


def sentencepiece_like() -> Tokenizer:
    """Byte fallback and ▁ for spaces, as Llama 2 and Mistral have them."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for piece in ("▁", "▁the", "袖", "口", "の", "cm", "綿", "100", "%", "2026"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return tokenizer


def stream(tokenizer: Tokenizer, tokens: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    texts = TextStream(tokenizer, stop)
    parts = []
    for token in tokens:
        parts.append(texts.push(token))
        if texts.stopped:
            break
    return [*parts, texts.finish()]


@pytest.mark.parametrize("kind", ["trained", "made_here"])
def test_parts_are_whole_characters_and_together_the_text(kind: str, tiny_model: Path) -> None:
    tokenizer = trained(tiny_model) if kind == "trained" else sentencepiece_like()
    tokens = tokenizer.encode(TEXT, add_special_tokens=False).ids
    parts = stream(tokenizer, tokens)
    assert len(tokens) > len(TEXT) / 4
    assert "".join(parts) == tokenizer.decode(tokens)
    assert not any(REPLACEMENT in part for part in parts)
    assert sum(bool(part) for part in parts) > 5


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_comes_out_as_decoding_it_at_once_gives_it(text: str) -> None:
    tokenizer = trained(TINY_MODEL)
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(stream(tokenizer, tokens)) == tokenizer.decode(tokens)


@given(st.integers(0, 10_000), st.booleans())
def test_any_tokens_give_what_decoding_them_at_once_gives(seed: int, bytes_often: bool) -> None:
    tokenizer = trained(TINY_MODEL) if seed % 2 else sentencepiece_like()
    number = min(tokenizer.get_vocab_size(), 300 if bytes_often else 10_000)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, number, 30).tolist()
    assert "".join(stream(tokenizer, tokens)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("stop", ["仕様", "様:綿100", "👕", "。", "\n", "2026\n身"])
def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(stop: str, tiny_model: Path) -> None:
    tokenizer = trained(tiny_model)
    tokens = tokenizer.encode(TEXT, add_special_tokens=False).ids
    parts = stream(tokenizer, tokens, (stop, "never"))
    assert "".join(parts) == TEXT[: TEXT.index(stop)]


def test_what_only_looked_like_a_stop_text_comes_out(tiny_model: Path) -> None:
    tokenizer = trained(tiny_model)
    tokens = tokenizer.encode("袖口の縫", add_special_tokens=False).ids
    assert "".join(stream(tokenizer, tokens, ("の縫製仕様",))) == "袖口の縫"


def test_a_character_that_stays_incomplete_is_shown_as_such_at_the_end(tiny_model: Path) -> None:
    tokenizer = trained(tiny_model)
    tokens = tokenizer.encode("綿𠮷", add_special_tokens=False).ids[:-1]
    parts = stream(tokenizer, tokens)
    assert "".join(parts[:-1]) == "綿"
    assert parts[-1] == tokenizer.decode(tokens)[1:]
    assert REPLACEMENT in parts[-1]
