"""`export.onnx`: a checkpoint as an ONNX model that was held against PyTorch."""

import importlib.util
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from llmopt.artifacts.manifest import ArtifactKind
from llmopt.artifacts.onnx_description import OnnxWeights
from llmopt.checkpoint.checkpoint import Checkpoint, linear_names
from llmopt.checkpoint.encoder_config import (
    SUPPORTED_ENCODERS,
    EncoderConfig,
    EncoderTask,
    is_encoder,
    read_encoder_config,
)
from llmopt.checkpoint.model_config import SUPPORTED_MODEL_TYPES, read_raw_config
from llmopt.checkpoint.stored_quantization import ChannelLayer, StoredLayer
from llmopt.errors import CapabilityError, IncompatibleError, InputError
from llmopt.serving.target import Target
from llmopt.steps.base import Estimate, Outcome, RunContext, StepBase, StepInputs
from llmopt.steps.estimates import estimate_export
from llmopt.steps.measure_fields import AnyModelName

Opset = Literal[18, 19, 20, 21, 22, 23, 24]
INT4_OPSET = 21
INTEGER_FORMS = ("qdq_int4", "matmulnbits")
INTEGER_STEPS = ("quantize.gptq", "quantize.rtn")
INPUT_ROUNDING_STEPS = ("quantize.fp8", "quantize.int8")
INT8_COSINE_DISTANCE = 0.02
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class ExportOnnx(StepBase):
    """Exports a checkpoint to ONNX and holds the file against PyTorch."""

    produces: ClassVar[ArtifactKind] = "onnx_model"
    step_version: ClassVar[int] = 2  # 1 repeated keys and values for each query head

    uses: Literal["export.onnx"]
    model: AnyModelName = Field(description="A decoder, plain or quantised, or a BERT encoder.")
    weights: OnnxWeights = Field(
        "plain",
        description="plain (an unquantised checkpoint), dequantised, qdq_int4 (packed integers as "
        "DequantizeLinear, for onnxruntime and TensorRT), matmulnbits (onnxruntime only), or "
        "int8_dynamic (encoders on CPUs).",
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32",
        description="What is computed in. onnxruntime's CPU provider lacks bfloat16: such a model "
        "is checked through its float32 twin.",
    )
    kv_cache: bool = Field(
        True, description="Decoders: take and return the key-value cache, for generation."
    )
    last_token_logits: bool = Field(
        False, description="Decoders: return the logits of each row's last position alone."
    )
    task: EncoderTask | None = Field(
        None,
        description="Encoders: fill_mask (logits) or embed (last hidden state); default what the "
        "checkpoint is for.",
    )
    masked_positions: bool = Field(
        False,
        description="Encoders that fill masks: take a position per row, masked_positions, and "
        "return the logits of that one alone, which is what a server needs.",
    )
    opset: Opset = Field(21, description="Version of the ONNX operators; qdq_int4 needs 21.")
    tolerance: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Largest error against PyTorch, as a share of the largest logit (default: "
        "0.0001 in float32 and bfloat16, 0.02 in float16); for int8_dynamic the mean cosine "
        f"distance of the outputs (default: {INT8_COSINE_DISTANCE}).",
    )

    @model_validator(mode="after")
    def _check_opset(self) -> "ExportOnnx":
        if self.weights == "qdq_int4" and self.opset < INT4_OPSET:
            raise ValueError(f"qdq_int4 needs opset {INT4_OPSET} or later, not {self.opset}")
        return self

    def open_checkpoint(self, inputs: StepInputs) -> Checkpoint:
        """Opens a decoder and refuses what can't be exported so.

        Raises:
            InputError: Unsupported or corrupt.
            IncompatibleError: Its weights do not have the form that is asked for.
        """
        model = inputs["model"]
        _check_family(model.path)
        checkpoint = Checkpoint.open(model.path, trust_remote_code=model.trust_remote_code)
        check_weights(self.weights, checkpoint)
        if self.masked_positions:
            raise IncompatibleError(
                f"masked_positions: true is for encoders; {checkpoint.folder} is a "
                f"{checkpoint.config.model_type} decoder",
                remedy="use last_token_logits: true",
            )
        if self.task is not None:
            raise IncompatibleError(
                f"task: {self.task} is for encoders; {checkpoint.folder} is a "
                f"{checkpoint.config.model_type} decoder",
                remedy="leave task out",
            )
        return checkpoint

    def open_encoder(self, inputs: StepInputs) -> EncoderConfig:
        """Opens an encoder and refuses what can't be exported so.

        Raises:
            InputError: Unsupported or corrupt.
            IncompatibleError: A field is for decoders, or the checkpoint has no head for the task.
        """
        config = read_encoder_config(inputs["model"].path)
        check_encoder_fields(self)
        task = config.choose_task(self.task)
        if self.masked_positions and task != "fill_mask":
            raise IncompatibleError(
                f"masked_positions: true needs task: fill_mask; {config.folder} is exported with "
                f"task: {task}, which has no logits",
                remedy="leave masked_positions out, or set task: fill_mask",
            )
        return config

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Checks the model's family and weights without torch."""
        del target
        if "model" not in inputs:
            return
        model = inputs["model"]
        if not model.path.exists():  # made by an earlier step, or not downloaded yet
            if model.maker is not None:
                check_coming_weights(self.weights, model.maker)
        elif is_encoder(model.path):
            self.open_encoder(inputs)
        else:
            self.open_checkpoint(inputs)

    def estimate(self, inputs: StepInputs) -> Estimate | None:
        """Estimates needs from the headers; None for a model not yet made or unsuitable."""
        model = inputs["model"].path
        if not model.exists() or is_encoder(model):
            return None
        try:
            checkpoint = self.open_checkpoint(inputs)
        except (InputError, IncompatibleError):
            return None
        return estimate_export(checkpoint, self.dtype, packs=self.weights in INTEGER_FORMS)

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the file."""
        return ("torch", "transformers", *PACKAGES)

    def require_tools(self) -> None:
        """Refuses where a package is not installed.

        Raises:
            CapabilityError: onnx, onnxruntime or onnxscript is not.
        """
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise CapabilityError(
                f"export.onnx needs {', '.join(missing)}, which is not installed",
                remedy="pip install 'llmopt[onnx]'",
            )

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Exports and verifies.

        Raises:
            CapabilityError: onnx or onnxruntime is not installed.
        """
        self.require_tools()
        if is_encoder(inputs["model"].path):
            from llmopt.steps.encoder_run import run_encoder_export  # noqa: PLC0415 - torch

            return run_encoder_export(self, inputs, context)
        from llmopt.steps.export_run import run_export  # noqa: PLC0415 - torch

        return run_export(self, inputs, context)


def _check_family(folder: Path) -> None:
    raw = read_raw_config(folder)
    supported = (*SUPPORTED_MODEL_TYPES, *SUPPORTED_ENCODERS)
    if raw.get("model_type") not in supported:
        raise InputError(
            f"{folder / 'config.json'}: model_type {raw.get('model_type')!r} is not exported to "
            f"ONNX; supported: {', '.join(supported)}"
        )


def check_weights(weights: OnnxWeights, checkpoint: Checkpoint) -> None:
    """Refuses a form that a decoder's weights do not have.

    Raises:
        IncompatibleError: Names the forms that fit.
    """
    if checkpoint.config.experts is not None:
        raise IncompatibleError(
            f"{checkpoint.folder} is a mixture of experts ({checkpoint.config.model_type}), which "
            "is not exported to ONNX",
            remedy="serve it with vLLM",
        )
    stored = checkpoint.quantization
    if weights == "int8_dynamic":
        raise IncompatibleError(
            "weights: int8_dynamic is for encoders; "
            f"{checkpoint.folder} is a {checkpoint.config.model_type} decoder",
            remedy="use weights: matmulnbits on a checkpoint that quantize.gptq made",
        )
    if weights in (*INTEGER_FORMS, "dequantised") and stored is None:
        raise IncompatibleError(
            f"{checkpoint.folder} is not quantised, so it has no integers for weights: {weights}",
            remedy="use weights: plain, or export what quantize.gptq makes of it",
        )
    layers = (
        [] if stored is None else [stored.find_layer(n) for n, _ in linear_names(checkpoint.config)]
    )
    if stored is not None and any(
        isinstance(layer, ChannelLayer) and layer.rounds_inputs for layer in layers
    ):
        raise IncompatibleError(
            f"{checkpoint.folder} rounds the inputs of its layers when it is served "
            f"({stored.description}), which is not exported to ONNX",
            remedy="serve it with vLLM, or export what quantize.gptq makes of the original",
        )
    has_integers = any(isinstance(layer, StoredLayer) for layer in layers)
    if weights == "plain" and stored is not None:
        raise IncompatibleError(
            f"{checkpoint.folder} is quantised ({stored.description}), its weights are not plain",
            remedy="use weights: qdq_int4, matmulnbits or dequantised"
            if has_integers
            else "use weights: dequantised",
        )
    if weights in INTEGER_FORMS and not has_integers:
        raise IncompatibleError(
            f"{checkpoint.folder} holds no packed integers for weights: {weights}",
            remedy="use weights: dequantised",
        )


def check_coming_weights(weights: OnnxWeights, maker: StepBase) -> None:
    """Refuses a form that what another step will make can't have.

    Raises:
        IncompatibleError: Names the forms that fit.
    """
    made = f"what {maker.type_name} makes"
    if maker.type_name in INPUT_ROUNDING_STEPS:
        raise IncompatibleError(
            f"{made} rounds the inputs of its layers when it is served, which is not exported to "
            "ONNX",
            remedy="serve it with vLLM, or export what quantize.gptq makes of the original",
        )
    holds_integers = maker.type_name in INTEGER_STEPS
    forms = (*INTEGER_FORMS, "dequantised") if holds_integers else ("dequantised",)
    if weights not in forms:
        raise IncompatibleError(
            f"{made} can't be exported with weights: {weights}",
            remedy=f"use weights: {' or '.join(forms)}",
        )


def check_encoder_fields(step: ExportOnnx) -> None:
    """Refuses fields that mean nothing for an encoder.

    Raises:
        IncompatibleError: Names the field.
    """
    if step.weights not in ("plain", "int8_dynamic"):
        raise IncompatibleError(
            f"weights: {step.weights} is for decoders; an encoder has plain or int8_dynamic",
            remedy="use weights: int8_dynamic",
        )
    if step.weights == "int8_dynamic" and step.dtype != "float32":
        raise IncompatibleError(
            f"weights: int8_dynamic is computed beside float32, not {step.dtype}",
            remedy="set dtype: float32",
        )
    for name in ("kv_cache", "last_token_logits"):
        if name in step.model_fields_set and getattr(step, name):
            raise IncompatibleError(
                f"{name}: true is for decoders; an encoder has neither a cache nor a last token",
                remedy=f"leave {name} out",
            )
