"""What `package.triton` refuses before any work: what the server would not load, or not so.

Inputs that are there are judged by their descriptions, those to come by the fields of their maker
(llmopt.steps.package_coming).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmopt.artifacts.engine_description import EngineDescription, read_engine_description
from llmopt.artifacts.onnx_description import OnnxDescription, read_onnx_description
from llmopt.artifacts.triton_description import RepositoryShape
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.model_config import SUPPORTED_MODEL_TYPES, read_raw_config
from llmopt.errors import IncompatibleError, InputError
from llmopt.serving.preflight import check_servable
from llmopt.serving.stored_weights import describe_checkpoint
from llmopt.serving.target import Target
from llmopt.steps.base import KIND_TITLES, InputKind, ResolvedInput, StepInputs
from llmopt.steps.package_coming import check_coming
from llmopt.steps.package_release import check_opset, check_plan_version
from llmopt.triton.ensemble_rules import (
    check_buckets,
    check_ensemble_backend,
    check_ensemble_model,
    choose_buckets,
)
from llmopt.triton.generate_model import GenerateSettings, check_generates
from llmopt.triton.trial_rules import check_trial

if TYPE_CHECKING:
    from llmopt.steps.package_triton import PackageTriton

KINDS: dict[RepositoryShape, tuple[InputKind, ...]] = {
    "generate": ("onnx_model", "tensorrt_engine"),
    "ensemble": ("onnx_model", "tensorrt_engine"),
    "vllm": ("checkpoint", "quantized_checkpoint"),
}


@dataclass(frozen=True)
class ServedModel:
    """An export, and the engine that was built from it where that is what is served."""

    name: str
    description: OnnxDescription
    engine: EngineDescription | None


def read_served(given: ResolvedInput) -> ServedModel:
    """Reads what an export or an engine says of itself.

    Raises:
        InputError: It says nothing that this version can read.
    """
    if given.kind == "tensorrt_engine":
        engine = read_engine_description(given.path)
        return ServedModel(given.name, engine.model, engine)
    return ServedModel(given.name, read_onnx_description(given.path), None)


def check_inputs(step: "PackageTriton", inputs: StepInputs, target: Target | None) -> None:
    """Judges the step's fields, and its inputs as far as they are known.

    Raises:
        IncompatibleError: Names the value, what is allowed and the way out.
        InputError: An input is unreadable.
    """
    check_budget(step)
    if "model" not in inputs:
        return
    model = inputs["model"]
    if model.kind not in KINDS[step.shape]:
        raise IncompatibleError(
            f"shape {step.shape} serves {' or '.join(KIND_TITLES[k] for k in KINDS[step.shape])}; "
            f"{model.name} is {KIND_TITLES[model.kind]}",
            remedy="use shape: vllm"
            if model.kind in KINDS["vllm"]
            else "use shape: generate or ensemble, or give the checkpoint",
        )
    if step.shape != "vllm" and model.kind == "tensorrt_engine" and "tokenizer" not in inputs:
        raise IncompatibleError(
            f"{model.name} is an engine, which holds no tokenizer",
            remedy="name the checkpoint that it was made from with tokenizer",
        )
    if step.smoke:
        has_engine = model.kind == "tensorrt_engine"
        check_trial("smoke: true", model.name, step.shape, has_engine=has_engine)
    if step.shape == "generate" and "tokenizer" in inputs:
        check_tokenizer(inputs["tokenizer"])
    if not model.path.exists():
        if model.maker is not None:
            check_coming(step, model.name, model.maker)
    elif step.shape == "vllm":
        check_checkpoint(step, model, target)
    else:
        check_served(step, read_served(model))


def check_tokenizer(tokenizer: ResolvedInput) -> None:
    """Refuses a checkpoint without tokenizer.json, which a generating model reads."""
    if tokenizer.path.exists() and not (tokenizer.path / "tokenizer.json").exists():
        raise InputError(
            f"{tokenizer.path} holds no tokenizer.json, which generation needs",
            remedy="name a checkpoint that has one, or save it: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )


def check_budget(step: "PackageTriton") -> None:
    """Refuses a delay that a lone request's budget does not allow."""
    budget, delay = step.latency_budget_ms, step.max_queue_delay_ms
    if budget is not None and delay > budget:
        raise IncompatibleError(
            f"max_queue_delay_ms is {delay:g}, above latency_budget_ms {budget:g}: a lone request "
            "waits for the whole delay",
            remedy=f"set max_queue_delay_ms: {budget:g} or less; 0 to 5 fill batches too",
        )


def check_served(step: "PackageTriton", served: ServedModel) -> None:
    """Judges an export or an engine that is there."""
    if served.engine is not None:
        check_engine(step, served.name, served.engine)
    else:
        check_opset(step, served.name, served.description.opset)
    if step.shape == "generate":
        settings = make_generate_settings(step, served)
        check_generates(settings)
        check_answer_length(step, settings)
    else:
        check_ensemble(step, served)


def choose_device(step: "PackageTriton", served: ServedModel) -> Literal["cpu", "cuda"]:
    """Returns what the server is to compute on: `auto` is cuda for engines and named GPUs."""
    if step.device != "auto":
        return step.device
    return "cuda" if served.engine is not None or step.gpus else "cpu"


def make_generate_settings(step: "PackageTriton", served: ServedModel) -> GenerateSettings:
    """Returns what the code of a generating model is told."""
    engine = served.engine
    return GenerateSettings(
        model=served.description,
        model_file="model.onnx" if engine is None else "model.engine",
        decoder="onnxruntime" if engine is None else engine.backend,
        profiles=() if engine is None else engine.profiles,
        max_running=step.max_batch_size,
        max_waiting=step.max_queue_size,
        default_max_tokens=step.default_max_tokens,
        threads=step.threads,
        warm_up=step.warm_up,
    )


def check_answer_length(step: "PackageTriton", settings: GenerateSettings) -> None:
    """Refuses default answers that leave no room for a prompt; unasked, they are cut to fit."""
    is_asked = "default_max_tokens" in step.model_fields_set
    if is_asked and step.default_max_tokens >= settings.max_context:
        raise IncompatibleError(
            f"default_max_tokens is {step.default_max_tokens}; prompt and answer together have "
            f"{settings.max_context} tokens here",
            remedy=f"set default_max_tokens: {settings.max_context // 2}",
        )


def check_engine(step: "PackageTriton", name: str, engine: EngineDescription) -> None:
    """Refuses engines that the release's backend does not load."""
    if step.device == "cpu":
        raise IncompatibleError(
            f"{name} is a TensorRT engine, which runs on no CPU", remedy="set device: cuda"
        )
    if step.shape == "ensemble" and engine.backend == "tensorrt":
        check_plan_version(step, name, engine.tensorrt_version)


def check_ensemble(step: "PackageTriton", served: ServedModel) -> None:
    """Judges what an ensemble is to be made of."""
    assert step.task is not None
    model, engine = served.description, served.engine
    check_ensemble_model(step.task, model)
    check_ensemble_backend(model, engine)
    profiles = () if engine is None else engine.profiles
    buckets = step.buckets or choose_buckets(model, profiles)
    check_buckets(buckets, model, profiles, step.max_batch_size)


def check_checkpoint(step: "PackageTriton", model: ResolvedInput, target: Target | None) -> None:
    """Refuses a checkpoint that vLLM does not load; families unknown here are not judged."""
    raw = read_raw_config(model.path)
    if raw.get("model_type") not in SUPPORTED_MODEL_TYPES:
        return
    checkpoint = Checkpoint.open(model.path, trust_remote_code=model.trust_remote_code)
    checkpoint.require_tokenizer()
    check_servable(describe_checkpoint(checkpoint), make_vllm_target(step, target))


def make_vllm_target(step: "PackageTriton", target: Target | None) -> Target:
    """Returns the recipe's target where it is vLLM, with what engine_args say instead."""
    fields = target.model_dump() if target is not None and target.runtime == "vllm" else {}
    named = {"tp": "tensor_parallel_size", "max_model_len": "max_model_len"}
    said = {
        field: step.engine_args[name] for field, name in named.items() if name in step.engine_args
    }
    return Target.model_validate({**fields, "runtime": "vllm", **said})
