"""Holds a tokenizer that is named against the one that came with the export."""

import json
from collections.abc import Mapping
from pathlib import Path

from llmopt.errors import IncompatibleError, InputError

FILE_NAME = "tokenizer.json"


def check_vocabulary(tokenizer: Path, export: Path) -> None:
    """Refuses a tokenizer of another model: what it calls 7 is another word to the model.

    More tokens, or others in place of some, are no reason: special tokens are added and renamed.

    Args:
        tokenizer: The folder that is named.
        export: The export's, which may hold the tokenizer of its checkpoint.

    Raises:
        IncompatibleError: A token has another number, or most are unknown to it.
        InputError: A tokenizer.json is damaged.
    """
    named, own = tokenizer / FILE_NAME, export / FILE_NAME
    if not (named.exists() and own.exists()) or named.read_bytes() == own.read_bytes():
        return
    given, expected = _read_vocabulary(named), _read_vocabulary(own)
    same = sum(given.get(token) == number for token, number in expected.items())
    if same * 2 >= len(expected):
        return
    raise IncompatibleError(
        f"{tokenizer} is the tokenizer of another model: of the {len(expected)} tokens that the "
        f"export's own tokenizer has, {same} have the same number in it",
        remedy="leave tokenizer out: the export holds the one of its checkpoint",
    )


def _read_vocabulary(path: Path) -> Mapping[str, int]:
    """Returns token → number; of tokens beside the model's vocabulary nothing."""
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: [token, score] in order
            return {token: number for number, (token, _) in enumerate(vocabulary)}
        return dict(vocabulary)
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path} is no tokenizer of the tokenizers library: {type(error).__name__} {error}",
            remedy="copy it from its source again",
        ) from None
