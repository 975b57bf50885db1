"""The files of the model that generates text: its code, tokenizer and settings.

The code is `llmopt.triton.runtime.generate`, copied as it stands.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llmopt.artifacts.json_model import describe_faults
from llmopt.artifacts.onnx_description import OnnxDescription
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.artifacts.tensor_spec import TensorSpec, make_spec
from llmopt.checkpoint.model_config import read_raw_config
from llmopt.errors import IncompatibleError, InputError
from llmopt.triton.generate_profiles import choose_decode, choose_prefill
from llmopt.triton.generation_file import (
    SETTINGS_NAME,
    CacheTensor,
    GenerationFile,
    ProfileRanges,
    ServedLimits,
)
from llmopt.triton.runtime_files import MAX_BYTES_PER_TOKEN, copy_runtime

PAST, PRESENT = "past_key_values.", "present."
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")

GENERATE_INPUTS: tuple[TensorSpec, ...] = (
    make_spec("text_input", "string", one=1),
    make_spec("messages", "string", one=1),
    make_spec("sampling_parameters", "string", one=1),
    make_spec("stream", "bool", one=1),
)  # all optional; one of the first two is needed
GENERATE_OUTPUTS: tuple[TensorSpec, ...] = (
    make_spec("text_output", "string", one=1),
    make_spec("finish_reason", "string", one=1),
    make_spec("num_input_tokens", "uint32", one=1),
    make_spec("num_output_tokens", "uint32", one=1),
)
GENERATE_REQUIREMENTS = ("tokenizers", "jinja2")  # beside numpy and what runs the model


class GenerateSettings(BaseModel):
    """What the generating model is to do.

    Attributes:
        model: The exported decoder, with a key-value cache.
        model_file: The graph or engine in the version folder.
        decoder: What runs it.
        profiles: The engine's.
        max_running: Requests that are decoded together.
        max_waiting: Requests that wait; more are refused.
        default_max_tokens: Of an answer, where a request does not say.
        threads: Of onnxruntime; None leaves its choice.
        warm_up: Whether loading runs the model once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: OnnxDescription
    model_file: str
    decoder: Literal["onnxruntime", "tensorrt_rtx", "tensorrt"]
    profiles: tuple[OptimizationProfile, ...] = ()
    max_running: int
    max_waiting: int
    default_max_tokens: int
    threads: int | None = None
    warm_up: bool = True

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together, as the model and the engine's profile allow."""
        positions = self.model.max_position_embeddings
        if not self.profiles:
            return positions
        decode = choose_decode(self.profiles, self.max_running)
        return min(positions, decode.axes["past_sequence"].max + 1)

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of a prompt: what one run takes, with room for a token of the answer."""
        room = self.max_context - 1
        if not self.profiles:
            return room
        return min(room, choose_prefill(self.profiles).axes["sequence"].max)

    @property
    def limits(self) -> ServedLimits:
        """What is done at once."""
        rows = None
        if self.profiles:
            rows = min(choose_prefill(self.profiles).axes["batch"].max, self.max_running)
        return ServedLimits(
            max_running=self.max_running, max_waiting=self.max_waiting, max_prefill_rows=rows
        )


@dataclass(frozen=True)
class PromptFields:
    """What a checkpoint says of prompts and of where answers end.

    Attributes:
        eos_token_ids: End an answer.
        chat_template: None where there is none.
        template_values: Special tokens that it may name.
    """

    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    template_values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, checkpoint: Path) -> "PromptFields":
        """Reads them from a checkpoint's folder.

        Raises:
            InputError: A file of it is damaged.
        """
        template, values = read_chat_template(checkpoint)
        return cls(tuple(read_eos_tokens(checkpoint)), template, values)


def check_generates(settings: GenerateSettings) -> None:
    """Refuses a model that can't generate text so.

    Raises:
        IncompatibleError: It has no cache or another dtype, or no profile takes its prompts, or
            its answers.
    """
    model = settings.model
    if model.task != "generate" or not model.kv_cache:
        raise IncompatibleError(
            f"a {model.task} model without a key-value cache generates no text"
            if model.task == "generate"
            else f"a model exported for {model.task} generates no text",
            remedy="export a decoder with kv_cache: true, or use shape: ensemble",
        )
    if model.dtype == "bfloat16":
        raise IncompatibleError(
            "the model was exported in bfloat16, which numpy and onnxruntime's CPU provider lack",
            remedy="export it with dtype: float32 or float16",
        )
    if settings.decoder == "onnxruntime":
        return
    choose_prefill(settings.profiles)
    choose_decode(settings.profiles, settings.max_running)


def write_generate_model(
    version_folder: Path, settings: GenerateSettings, tokenizer: Path, cuda_driver: Path | None
) -> None:
    """Writes code, tokenizer and settings; neither the config nor the weights.

    Args:
        version_folder: Of the model, such as `NAME/1`.
        settings: What it is to do.
        tokenizer: The checkpoint's folder.
        cuda_driver: For engines, the module that is copied as `cuda_driver.py`.

    Raises:
        InputError: The checkpoint has no tokenizer.json.
        IncompatibleError: As check_generates.
    """
    check_generates(settings)
    source = tokenizer / "tokenizer.json"
    if not source.exists():
        raise InputError(
            f"{tokenizer} holds no tokenizer.json, which generation needs",
            remedy="name the checkpoint that the model was made from with tokenizer",
        )
    num_tokens = _count_tokens(source, tokenizer)
    if num_tokens > settings.model.vocab_size:
        raise IncompatibleError(
            f"{source} has {num_tokens} tokens, the model's vocabulary {settings.model.vocab_size}",
            remedy="name the tokenizer of the checkpoint that the model was made from",
        )
    copy_runtime("generate", version_folder)
    if settings.decoder == "onnxruntime":
        (version_folder / "tensorrt_decoder.py").unlink()
    elif cuda_driver is not None:
        (version_folder / "onnx_decoder.py").unlink()
        shutil.copyfile(cuda_driver, version_folder / "cuda_driver.py")
    shutil.copyfile(source, version_folder / "tokenizer.json")
    text = json.dumps(make_settings(settings, tokenizer), ensure_ascii=False, indent=1)
    (version_folder / SETTINGS_NAME).write_text(text + "\n", encoding="utf-8")


def _count_tokens(path: Path, checkpoint: Path) -> int:
    """Loads tokenizer and chat template as the model will; returns the size of its vocabulary.

    Raises:
        InputError: One of them can't be loaded.
    """
    from jinja2 import TemplateError  # noqa: PLC0415 - the step's fields load without them

    from llmopt.triton.runtime.generate.prompts import PromptEncoder  # noqa: PLC0415

    template, values = read_chat_template(checkpoint)
    try:
        return PromptEncoder(path, template, values, 0, 0).tokenizer.get_vocab_size()
    except TemplateError as error:
        raise InputError(
            f"the chat template of {checkpoint} can't be compiled: {error}",
            remedy="mend chat_template in its tokenizer_config.json or chat_template.jinja",
        ) from None
    except Exception as error:
        if type(error) is not Exception:  # the tokenizers library raises Exception itself
            raise
        raise InputError(f"{path} can't be loaded: {error}") from None


def make_settings(settings: GenerateSettings, tokenizer: Path) -> dict[str, Any]:
    """Returns the contents of generation.json, as JSON has them.

    Raises:
        InputError: A file of the checkpoint is damaged.
        IncompatibleError: As fill_file.
    """
    return fill_file(settings, PromptFields.read(tokenizer)).model_dump(mode="json")


def fill_file(settings: GenerateSettings, prompts: PromptFields) -> GenerationFile:
    """Returns the contents of generation.json.

    Raises:
        IncompatibleError: The model's description has values that the code can't work with.
    """
    model = settings.model
    try:
        return GenerationFile(
            decoder=settings.decoder,
            model_file=settings.model_file,
            session_options=dict(model.session_options),
            cache=tuple(_describe_cache(s) for s in model.inputs if s.name.startswith(PAST)),
            profiles=tuple(_describe_profile(profile) for profile in settings.profiles),
            vocab_size=model.vocab_size,
            max_context=settings.max_context,
            max_prompt_tokens=settings.max_prompt_tokens,
            max_prompt_bytes=MAX_BYTES_PER_TOKEN * settings.max_context,
            eos_token_ids=prompts.eos_token_ids,
            chat_template=prompts.chat_template,
            template_values=dict(prompts.template_values),
            default_max_tokens=settings.default_max_tokens,
            limits=settings.limits,
            threads=settings.threads,
            warm_up=settings.warm_up,
        )
    except ValidationError as error:
        raise IncompatibleError(
            f"the model can't generate text as it is described: {describe_faults(error)}",
            remedy="export the model anew",
        ) from None


def read_eos_tokens(checkpoint: Path) -> list[int]:
    """Returns the tokens that end an answer: those of generation_config.json, else config.json.

    Raises:
        InputError: One of them is damaged.
    """
    path = checkpoint / "generation_config.json"
    tokens = _read_object(path).get("eos_token_id")
    if tokens is None:
        path = checkpoint / "config.json"
        tokens = read_raw_config(checkpoint).get("eos_token_id")
    if tokens is None:
        return []
    listed = tokens if isinstance(tokens, list) else [tokens]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in listed):
        raise InputError(
            f"{path} has eos_token_id {tokens!r}; a token's number or a list of them is allowed",
            remedy="copy it from the model's source again",
        )
    return listed


def _read_object(path: Path) -> dict[str, Any]:
    """Reads a file of JSON that need not be there; without it, an empty object."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no JSON: {error}", remedy="copy it from the model's source again"
        ) from None
    if not isinstance(raw, dict):
        raise InputError(
            f"{path} holds {type(raw).__name__}, not a JSON object",
            remedy="copy it from the model's source again",
        )
    return raw


def read_chat_template(checkpoint: Path) -> tuple[str | None, dict[str, str]]:
    """Returns a tokenizer's chat template and the special tokens that it may name.

    Raises:
        InputError: The tokenizer's config is damaged.
    """
    config = _read_object(checkpoint / "tokenizer_config.json")
    beside = checkpoint / "chat_template.jinja"
    template = config.get("chat_template")
    if beside.exists():
        template = beside.read_text(encoding="utf-8")
    elif isinstance(template, list):  # several, by name
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default")
    values = {name: _content(config.get(name)) for name in SPECIAL_TOKENS}
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in {"chat_template": template or "", **given}.items():
        if not isinstance(value, str):
            raise InputError(
                f"{checkpoint / 'tokenizer_config.json'} has {name} {value!r}; a text is allowed",
                remedy="copy it from the model's source again",
            )
    return template, given


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _describe_cache(spec: TensorSpec) -> CacheTensor:
    if len(spec.axes) != 4:
        raise IncompatibleError(
            f"{spec.name} has {len(spec.axes)} axes; a cache has rows, heads, tokens and head size",
            remedy="export the model anew",
        )
    _, heads, _, head_size = spec.axes
    return CacheTensor.model_validate(
        {
            "name": spec.name,
            "output": spec.name.replace(PAST, PRESENT, 1),
            "dtype": spec.dtype,
            "num_heads": heads.size,
            "head_size": head_size.size,
        }
    )


def _describe_profile(profile: OptimizationProfile) -> ProfileRanges:
    axes = {name: (sizes.min, sizes.max) for name, sizes in profile.axes.items()}
    return ProfileRanges(name=profile.name, axes=axes)
