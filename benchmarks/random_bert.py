"""A random BERT in the shape of bert-base-japanese, with a real MeCab and WordPiece tokenizer.

The vocabulary is trained on the texts of calibration/, cut into words by MeCab as the tokenizer
does it, and filled with [unusedN] up to the model's size, as BERT's vocabularies are.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertForMaskedLM
from transformers.models.bert_japanese.tokenization_bert_japanese import MecabTokenizer

CALIBRATION = Path(__file__).parent.parent / "calibration"
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
DICTIONARY = "unidic_lite"
VOCAB_SIZE = 32768
MAX_TOKENS = 512
SEED = 0


def read_texts(folder: Path = CALIBRATION) -> Iterator[str]:
    """Yields every document of the shipped calibration sets."""
    for path in sorted(folder.glob("*/calibration.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            turns = row.get("messages", [])
            yield row.get("text") or "\n".join(turn["content"] for turn in turns)


def build_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """Trains WordPiece on MeCab's words; returns exactly `size` tokens, special ones first."""
    mecab = MecabTokenizer(mecab_dic=DICTIONARY)
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator((" ".join(mecab.tokenize(text)) for text in texts), trainer)
    ids = tokenizer.get_vocab()
    vocabulary = sorted(ids, key=ids.__getitem__)
    return vocabulary + [f"[unused{index}]" for index in range(size - len(vocabulary))]


def write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    """Writes the tokenizer's files as bert-base-japanese has them."""
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "do_lower_case": False,
        "word_tokenizer_type": "mecab",
        "subword_tokenizer_type": "wordpiece",
        "mecab_kwargs": {"mecab_dic": DICTIONARY},
        "model_max_length": MAX_TOKENS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")


def make_bert(folder: Path, config: BertConfig, vocabulary: list[str]) -> Path:
    """Writes a random masked language model in float32; returns its folder."""
    torch.manual_seed(SEED)
    BertForMaskedLM(config).save_pretrained(folder)
    write_tokenizer(folder, vocabulary)
    return folder


def base_config() -> BertConfig:
    """Returns the shape of bert-base-japanese: 12 layers of 768, 12 heads, 3072 inside."""
    return BertConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=MAX_TOKENS)
