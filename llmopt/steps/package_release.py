"""What a release of the server loads: ONNX operators, and TensorRT's plans."""

from typing import TYPE_CHECKING

from llmopt.errors import IncompatibleError
from llmopt.triton.releases import LAST_ONNXRUNTIME

if TYPE_CHECKING:
    from llmopt.steps.package_triton import PackageTriton


def check_plan_version(step: "PackageTriton", name: str, version: str) -> None:
    """Refuses a plan of another TensorRT than the release's, where that one is known."""
    wanted = step.release.tensorrt
    if wanted is not None and not f"{version}.".startswith(f"{wanted}."):
        raise IncompatibleError(
            f"{name} is of TensorRT {version}; the container of release {step.triton_release} has "
            f"{wanted}, and loads no other's plans",
            remedy=f'build it with tensorrt_version: "{wanted}", or name the release that has '
            f"{version} with triton_release",
        )


def check_opset(step: "PackageTriton", name: str, opset: int) -> None:
    """Refuses operators that are newer than the release's onnxruntime."""
    release = step.release
    if step.shape == "ensemble":
        limit, runner = release.onnx_opset, f"its onnxruntime {release.onnxruntime}"
    elif release.environment_opset is not None:
        last, limit = LAST_ONNXRUNTIME[release.python]
        runner = f"onnxruntime {last}, the last for its Python {release.python},"
    else:
        return
    if opset > limit:
        raise IncompatibleError(
            f"{name} was exported with opset {opset}; release {release.release} is chosen, and "
            f"{runner} loads {limit} at most",
            remedy=f"export it with opset: {min(limit, 21)}, or name a later triton_release",
        )
