"""Train the byte-fallback BPE tokenizer and write its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

VOCAB_SIZE = 6144
MAX_LENGTH = 1024
SPECIALS = ("<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
ALPHABET_SIZE = 2000  # rarer characters become bytes, so that the bytes are learnt too
TERM_WEIGHT = 40
KANA = "".join(map(chr, [*range(0x3041, 0x3097), *range(0x30A1, 0x30FD)]))
SIGNS = "、。「」『』（）［］【】・〜ー々〆…―“”‘’※→←↑↓×÷±°℃％＋－＝／：；！？　①②③④⑤⑥⑦⑧⑨"
ASCII = "".join(map(chr, range(0x20, 0x7F))) + "\n\t"
WORDS = Regex(
    r" ?\p{Latin}+|\p{N}|[\p{Han}々〆]+\p{Hiragana}*|\p{Hiragana}+|[\p{Katakana}ー]+"
    r"| ?[^\s\p{L}\p{N}]+|\n+| +(?= \S)|\s"
)
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if messages and messages[0]['role'] == 'system' -%}
  {{- '<|system|>\\n' + messages[0]['content'] + '<|end|>\\n' -}}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {{- '<|system|>\\nあなたはアパレルの仕様書（テックパック）を扱うアシスタントです。\
寸法、素材、縫製仕様、検品基準について、日本語で簡潔に正確に答えてください。<|end|>\\n' -}}
  {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
  {%- if message['role'] == 'user' -%}
    {{- '<|user|>\\n' + message['content'] + '<|end|>\\n' -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '<|assistant|>\\n' + message['content'] + '<|end|>\\n' -}}
  {%- elif message['role'] == 'system' -%}
    {{- raise_exception('system のメッセージは会話の先頭に一つだけ置けます。') -}}
  {%- else -%}
    {{- raise_exception('未知の role です: ' + message['role'] + '（system, user, assistant のみ）') -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>\\n' -}}
{%- endif -%}
"""  # noqa: E501 - a template line cannot be broken


def _alphabet(texts: list[str], terms: list[str]) -> list[str]:
    """The characters that get a token of their own; equally frequent ones in code point order.

    Left to itself, the trainer's limit takes an arbitrary choice of those.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    ranked = sorted(counts, key=lambda char: (-counts[char], char))
    wanted = dict.fromkeys("".join(terms) + KANA + SIGNS + ASCII)
    return list(dict.fromkeys([*wanted, *ranked]))[:ALPHABET_SIZE]


def _learn(texts: list[str], terms: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn the vocabulary (special tokens first, then the bytes) and the merges."""
    learner = Tokenizer(models.BPE(unk_token=SPECIALS[0], byte_fallback=True))
    learner.pre_tokenizer = pre_tokenizers.Split(WORDS, "isolated")
    alphabet = _alphabet(texts, terms)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[*SPECIALS, *BYTES],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        max_token_length=16,
        show_progress=False,
    )

    def material() -> Iterator[str]:
        yield from texts
        for _ in range(TERM_WEIGHT):
            yield from terms

    learner.train_from_iterator(material(), trainer)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def train_tokenizer(texts: list[str], terms: list[str]) -> Tokenizer:
    """Build the tokenizer: the bytes are ordinary entries, only `SPECIALS` are special."""
    vocab, merges = _learn(texts, terms)
    if len(vocab) != VOCAB_SIZE:
        raise RuntimeError(f"the vocabulary has {len(vocab)} entries, not {VOCAB_SIZE}")
    model = models.BPE(
        vocab=vocab, merges=merges, unk_token=SPECIALS[0], fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(WORDS, "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and the settings that transformers reads (versions 4 and 5)."""
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(number): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for number, token in enumerate(SPECIALS)
    }
    settings = {
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIALS[3:]),
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": MAX_LENGTH,
        "pad_token": "</s>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
    }
    text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
