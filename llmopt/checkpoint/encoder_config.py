"""An encoder's config.json and tensor names, read without torch and without transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmopt.checkpoint.experts_config import positive_figure
from llmopt.checkpoint.model_config import read_raw_config
from llmopt.checkpoint.weights_index import index_tensors
from llmopt.errors import IncompatibleError, InputError

EncoderTask = Literal["fill_mask", "embed"]
SUPPORTED_ENCODERS = ("bert",)
# What the architectures of transformers' BERT are for; others have heads that are not exported.
TASKS: dict[str, EncoderTask] = {
    "BertModel": "embed", "BertForMaskedLM": "fill_mask", "BertForPreTraining": "fill_mask",
}  # fmt: skip
MASKED_LM_HEAD = "cls.predictions."
WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class EncoderConfig:
    """The figures of a BERT encoder.

    Attributes:
        type_vocab_size: Kinds of segments that `token_type_ids` may name.
        task: What its architecture is for; None where that is none of the tasks.
    """

    folder: Path
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    type_vocab_size: int
    max_position_embeddings: int
    architecture: str
    task: EncoderTask | None

    def choose_task(self, asked: EncoderTask | None) -> EncoderTask:
        """Returns the task that is asked for, else what the checkpoint is for.

        Raises:
            InputError: Its weights can't be found.
            IncompatibleError: The weights hold no masked-LM head, or no task is asked for and
                the checkpoint's own is none of them.
        """
        task = asked or self.task
        if task is None:
            raise IncompatibleError(
                f"{self.folder} is {self.architecture}, whose head is not exported; tasks are "
                "fill_mask and embed",
                remedy="set task: embed to export the last hidden state without that head",
            )
        if task == "fill_mask" and not self._has_masked_lm_head():
            raise IncompatibleError(
                f"{self.folder} ({self.architecture}) holds no masked-LM head "
                f"({MASKED_LM_HEAD}*), which task: fill_mask needs",
                remedy="set task: embed, or export a BertForMaskedLM checkpoint",
            )
        return task

    def _has_masked_lm_head(self) -> bool:
        return any(name.startswith(MASKED_LM_HEAD) for name in index_tensors(self.folder))


def is_encoder(folder: Path) -> bool:
    """Tells whether a folder holds a model of a supported encoder family.

    Raises:
        InputError: It holds no readable config.json.
    """
    return read_raw_config(folder).get("model_type") in SUPPORTED_ENCODERS


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Reads config.json of a supported encoder family, and sees that the weights are there.

    Raises:
        InputError: No such folder or file, no valid JSON, an architecture that is not
            supported, a field that is missing or impossible, a decoder, relative positions,
            quantised weights, or no weights in safetensors.
    """
    raw = read_raw_config(folder)
    _refuse_others(folder, raw)
    named = raw.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else "no architecture named"
    config = EncoderConfig(
        folder=folder,
        hidden_size=positive_figure(folder, raw, "hidden_size"),
        num_hidden_layers=positive_figure(folder, raw, "num_hidden_layers"),
        vocab_size=positive_figure(folder, raw, "vocab_size"),
        type_vocab_size=positive_figure(folder, raw, "type_vocab_size", default=2),
        max_position_embeddings=positive_figure(
            folder, raw, "max_position_embeddings", default=512
        ),
        architecture=architecture,
        task=TASKS.get(architecture),
    )
    _check_embeddings(config)
    return config


def _refuse_others(folder: Path, raw: Mapping[str, Any]) -> None:
    path = folder / "config.json"
    if raw.get("model_type") not in SUPPORTED_ENCODERS:
        raise InputError(
            f"{path}: model_type {raw.get('model_type')!r} is no encoder; "
            f"supported: {', '.join(SUPPORTED_ENCODERS)}"
        )
    if raw.get("is_decoder"):
        raise InputError(f"{path}: is_decoder is true; only BERT encoders are supported")
    positions = raw.get("position_embedding_type") or "absolute"
    if positions != "absolute":  # transformers 5 would ignore it, and compute something else
        raise InputError(
            f"{path}: position_embedding_type is {positions!r}; only 'absolute' is supported"
        )
    if raw.get("quantization_config"):
        raise InputError(
            f"{path}: the weights are quantised (quantization_config)",
            remedy="start from the original checkpoint in bf16, fp16 or fp32",
        )


def _check_embeddings(config: EncoderConfig) -> None:
    """Holds the word embeddings, and so the vocabulary, against config.json."""
    tensors = index_tensors(config.folder)
    found = [entry for name, entry in tensors.items() if name.endswith(WORD_EMBEDDINGS)]
    expected = (config.vocab_size, config.hidden_size)
    if not found:
        raise InputError(f"{config.folder}: no tensor is called *{WORD_EMBEDDINGS}")
    if tuple(found[0].shape) != expected:
        raise InputError(
            f"{config.folder}: the word embeddings are {list(found[0].shape)}, config.json says "
            f"vocab_size × hidden_size = {list(expected)}"
        )
