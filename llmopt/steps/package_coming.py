"""What `package.triton` refuses of an input that another step will make, by that step's fields."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmopt.artifacts.quant_scheme import QuantScheme
from llmopt.engine.profile_entries import read_entries
from llmopt.errors import IncompatibleError
from llmopt.serving.vllm_scheme_rules import SERVED_BITS
from llmopt.steps.base import StepBase
from llmopt.steps.build_tensorrt import BuildTensorrt
from llmopt.steps.export_onnx import ExportOnnx
from llmopt.steps.package_release import check_opset, check_plan_version
from llmopt.steps.quantize_fields import QuantizeFields
from llmopt.steps.quantize_gptq import QuantizeGptq
from llmopt.triton.ensemble_rules import EXPORTS

if TYPE_CHECKING:
    from llmopt.steps.package_triton import PackageTriton


def check_coming(step: "PackageTriton", name: str, maker: StepBase) -> None:
    """Judges what a step is to make.

    Args:
        step: What it is made for.
        name: Of the step that makes it.
        maker: That step.

    Raises:
        IncompatibleError: Names the field of the maker that does not fit.
    """
    if isinstance(maker, ExportOnnx):
        _check_coming_export(step, name, maker)
    elif isinstance(maker, BuildTensorrt):
        _check_coming_engine(step, name, maker)
    elif isinstance(maker, QuantizeFields):
        _check_coming_weights(name, maker)


def _check_coming_export(step: "PackageTriton", name: str, maker: ExportOnnx) -> None:
    check_opset(step, name, maker.opset)
    if step.shape == "generate":
        if not maker.kv_cache or maker.task is not None:
            raise IncompatibleError(
                f"{name} is to be exported without a key-value cache, so that it generates no text"
                if not maker.kv_cache
                else f"{name} is to be exported for {maker.task}, so that it generates no text",
                remedy=f"set kv_cache: true and no task in {name}, or use shape: ensemble",
            )
        if maker.dtype == "bfloat16":
            raise IncompatibleError(
                f"{name} is to be exported in bfloat16, which numpy lacks",
                remedy=f"set dtype: float32 or float16 in {name}",
            )
    else:
        _check_coming_pass(step, name, maker)


def _check_coming_pass(step: "PackageTriton", name: str, maker: ExportOnnx) -> None:
    """Refuses an export that an ensemble could not run in one pass, or not through its backend."""
    assert step.task is not None
    fits = {
        "score": maker.task is None and not maker.kv_cache and maker.last_token_logits,
        "embed": maker.task in (None, "embed"),
        "fill_mask": maker.task in (None, "fill_mask") and maker.masked_positions,
    }
    if not fits[step.task]:
        raise IncompatibleError(
            f"an ensemble with task: {step.task} can't serve what {name} is to export",
            remedy=f"let {name} export {EXPORTS[step.task]}",
        )
    if maker.weights == "qdq_int4":
        raise IncompatibleError(
            f"{name} is to export weights: qdq_int4, which Triton's onnxruntime backend would not "
            "compute as it was checked: it passes no session options on",
            remedy=f"set weights: matmulnbits or dequantised in {name}",
        )


def _check_coming_engine(step: "PackageTriton", name: str, maker: BuildTensorrt) -> None:
    if step.device == "cpu":
        raise IncompatibleError(
            f"{name} is to be a TensorRT engine, which runs on no CPU", remedy="set device: cuda"
        )
    if step.shape != "ensemble":
        return
    if maker.backend == "tensorrt_rtx":
        raise IncompatibleError(
            f"{name} is to be an engine of tensorrt_rtx, which Triton's tensorrt backend does not "
            "load",
            remedy=f"set backend: tensorrt in {name}, or use shape: generate",
        )
    if maker.tensorrt_version is not None:
        check_plan_version(step, name, maker.tensorrt_version)
    ranges = list(_sequence_ranges(maker))
    for size in step.buckets:
        if ranges and not any(low <= size <= high for low, high in ranges):
            raise IncompatibleError(
                f"buckets holds {size}, which no profile of {name} takes",
                remedy=f"add it to the profiles of {name}, or leave it out",
            )


def _sequence_ranges(maker: BuildTensorrt) -> Iterator[tuple[int, int]]:
    """Yields (min, max) of each profile's sequence, where it is written as an axis."""
    for entries in read_entries(maker.profiles).values():
        low, _, high = entries.get("sequence", (None, None, None))
        if isinstance(low, int) and isinstance(high, int):
            yield low, high


def _check_coming_weights(name: str, maker: QuantizeFields) -> None:
    """Refuses schemes that vLLM never serves; what a budget chooses is judged when it is made."""
    chosen = isinstance(maker, QuantizeGptq) and maker.budget is not None
    schemes = [] if chosen else [maker.scheme]
    schemes += [s for o in maker.overrides if (s := o.apply(maker.scheme)) is not None]
    for scheme in schemes:
        for message, remedy in _scheme_faults(scheme, maker):
            raise IncompatibleError(
                f"vLLM could not serve what {name} is to make: {message}",
                remedy=f"{remedy} in {name}",
            )


def _scheme_faults(scheme: QuantScheme, maker: QuantizeFields) -> Iterator[tuple[str, str]]:
    if scheme.bits not in SERVED_BITS:
        yield f"{scheme.bits} bits are not served, only 4 and 8", "set bits: 4"
    if maker.format == "gptq" and not scheme.sym:
        yield "format gptq must be symmetric", "set sym: true, or format: compressed-tensors,"
    if scheme.has_moved_groups:
        yield "act-order with groups is no longer served", "set desc_act: false"
