"""The contents of settings.json in ensembles, as they are written, and checked afterwards."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from llmopt.triton.ensemble_rules import EnsembleTask

SETTINGS_NAME, TOKENS_NAME = "settings.json", "tokens.json"
PaddingSide = Literal["left", "right"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class TokenizerFile(_Frozen):
    """What the tokenizer's code reads.

    Attributes:
        tokenizer: A file or folder beside this file.
        outputs: The engine's inputs.
        buckets: Lengths that texts are padded to, ascending; tokens.
        pad_id: What stands in the padding.
        mask_id: The token that is filled; None but for task fill_mask. Likewise `mask_token`.
        max_text_bytes: Longer texts are refused unread.
    """

    tokenizer: Annotated[str, Field(min_length=1)]
    outputs: tuple[str, ...]
    buckets: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    padding_side: PaddingSide
    pad_id: NonNegativeInt
    mask_id: NonNegativeInt | None
    mask_token: str | None
    max_text_bytes: PositiveInt


class PostprocessorFile(_Frozen):
    """What the postprocessor's code reads.

    Attributes:
        num_tokens: How many tokens are returned; not used by `embed`.
    """

    task: EnsembleTask
    num_tokens: PositiveInt


def choose_padding_side(task: EnsembleTask) -> PaddingSide:
    """Returns where padding goes: before a text whose last token the model goes on from."""
    return "left" if task == "score" else "right"
