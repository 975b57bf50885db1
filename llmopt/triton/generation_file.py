"""The contents of generation.json, as they are written, and checked in finished repositories."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

SETTINGS_NAME = "generation.json"
Text = Annotated[str, Field(min_length=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class CacheTensor(_Frozen):
    """An input of the key-value cache, and the output that continues it."""

    name: Text
    output: Text
    dtype: Literal["float32", "float16"]
    num_heads: PositiveInt
    head_size: PositiveInt


class ProfileRanges(_Frozen):
    """A profile of the engine: the least and the largest size of each axis."""

    name: str
    axes: dict[str, tuple[NonNegativeInt, NonNegativeInt]]


class ServedLimits(_Frozen):
    """What is done at once, as the code's `Limits` takes it."""

    max_running: PositiveInt
    max_waiting: PositiveInt
    max_prefill_rows: PositiveInt | None


class GenerationFile(_Frozen):
    """All that the copied code reads.

    Attributes:
        decoder: What runs the model.
        model_file: Beside this file.
        session_options: Entries of onnxruntime's session config.
        cache: In the model's order.
        profiles: The engine's, in its order.
        max_context: Tokens of prompt and answer together.
        max_prompt_tokens: What one run takes, with room for a token of the answer.
        max_prompt_bytes: Longer prompts are refused unread.
        eos_token_ids: End an answer.
        chat_template: A Jinja template; None where the checkpoint has none.
        template_values: Special tokens that it may name.
        default_max_tokens: Of an answer, where a request does not say.
        threads: Of onnxruntime; None leaves its choice.
        warm_up: Whether loading runs the model once.
    """

    decoder: Literal["onnxruntime", "tensorrt_rtx", "tensorrt"]
    model_file: Text
    session_options: dict[str, str]
    cache: Annotated[tuple[CacheTensor, ...], Field(min_length=1)]
    profiles: tuple[ProfileRanges, ...]
    vocab_size: PositiveInt
    max_context: PositiveInt
    max_prompt_tokens: PositiveInt
    max_prompt_bytes: PositiveInt
    eos_token_ids: tuple[NonNegativeInt, ...]
    chat_template: str | None
    template_values: dict[str, str]
    default_max_tokens: PositiveInt
    limits: ServedLimits
    threads: PositiveInt | None
    warm_up: bool
