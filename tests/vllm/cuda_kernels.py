"""Which kernel the real vLLM would take on a CUDA GPU, asked without one. Runs inside .venvs/vllm.

    python cuda_kernels.py REQUEST.json RESPONSE.json

Request: a list of {"capability": 89, "format": "gptq", "bits": 4, "sym": true, "group_size": 128,
"shape_OI": [O, I], "shard_OI": [O, I]}; formats are gptq, compressed-tensors (weight-only integers
both), fp8 and int8. Response: per question the name of the kernel, for fp8 and int8 of the scheme,
or "refused: " and vLLM's words. vLLM's own CUDA platform answers what is asked of a platform, but
for the capability; no kernel runs. Humming, which vLLM's CUDA build requires and the CPU build
lacks, counts as missing: a kernel named here is one of vLLM's own.
"""

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from greedy import ENVIRONMENT

INTEGER_TYPES = {
    (2, True): "uint2b2", (3, True): "uint3b4", (4, True): "uint4b8", (8, True): "uint8b128",
    (2, False): "uint2", (3, False): "uint3", (4, False): "uint4", (8, False): "uint8",
}  # fmt: skip


def pretend_cuda(capability: int) -> None:
    """Makes vLLM's own CUDA platform the current one, with this compute capability."""
    import vllm.platforms  # noqa: PLC0415

    # The CUDA build's compiled kernels; only their presence is asked for.
    sys.modules.setdefault("vllm._C_stable_libtorch", ModuleType("vllm._C_stable_libtorch"))
    from vllm.platforms.cuda import NonNvmlCudaPlatform  # noqa: PLC0415
    from vllm.platforms.interface import DeviceCapability  # noqa: PLC0415

    class PretendedGpu(NonNvmlCudaPlatform):
        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
            del device_id
            return DeviceCapability(*divmod(capability, 10))

    vllm.platforms.current_platform.__class__ = PretendedGpu


def choose_integer_kernel(question: dict[str, Any]) -> str:
    """Asks for the kernel of a weight-only integer layer."""
    import torch  # noqa: PLC0415
    from vllm.model_executor.kernels.linear import (  # noqa: PLC0415
        MPLinearLayerConfig,
        choose_mp_linear_kernel,
    )
    from vllm.scalar_type import scalar_types  # noqa: PLC0415

    check_format = {"gptq": check_gptq, "compressed-tensors": check_compressed_tensors}
    check_format[question["format"]](question)
    name = INTEGER_TYPES[question["bits"], question["sym"]]
    config = MPLinearLayerConfig(
        full_weight_shape=tuple(reversed(question["shape_OI"])),
        partition_weight_shape=tuple(reversed(question["shard_OI"])),
        weight_type=getattr(scalar_types, name),
        act_type=torch.bfloat16,
        group_size=question["group_size"],
        zero_points=not question["sym"],
    )
    return choose_mp_linear_kernel(config, question["capability"]).__name__


def check_gptq(question: dict[str, Any]) -> None:
    """Makes what vLLM makes of a checkpoint's configuration, with all its checks."""
    from vllm.model_executor.layers.quantization.auto_gptq import (  # noqa: PLC0415
        AutoGPTQConfig,
        AutoGPTQLinearMethod,
    )

    keys = ("bits", "sym", "group_size")
    given = {key: question[key] for key in keys}
    AutoGPTQLinearMethod(AutoGPTQConfig.from_config({**given, "desc_act": False}))


def check_compressed_tensors(question: dict[str, Any]) -> None:
    """Makes the scheme of a checkpoint's layer, with all its checks."""
    from vllm.model_executor.layers.quantization.compressed_tensors import (  # noqa: PLC0415
        compressed_tensors,
        schemes,
    )

    group_size = question["group_size"]
    scheme = schemes.CompressedTensorsWNA16(
        strategy="channel" if group_size == -1 else "group",
        num_bits=question["bits"],
        group_size=None if group_size == -1 else group_size,
        symmetric=question["sym"],
    )
    compressed_tensors.CompressedTensorsConfig._check_scheme_supported(scheme.get_min_capability())


def choose_float_scheme(question: dict[str, Any]) -> str:
    """Returns the first of the schemes that vLLM would take for 8-bit weights and activations."""
    from vllm.model_executor.layers.quantization.compressed_tensors import (  # noqa: PLC0415
        compressed_tensors,
        schemes,
    )

    names = {
        "fp8": ("CompressedTensorsW8A8Fp8", "CompressedTensorsW8A16Fp8"),
        "int8": ("CompressedTensorsW8A8Int8",),
    }[question["format"]]
    supported = compressed_tensors.CompressedTensorsConfig._check_scheme_supported
    for name in names:
        if supported(getattr(schemes, name).get_min_capability(), error=False):
            return name
    raise ValueError(f"no scheme of {names}")


def choose_kernel(question: dict[str, Any]) -> str:
    """Answers one question."""
    pretend_cuda(question["capability"])
    by_bits = question["format"] in ("gptq", "compressed-tensors")
    try:
        return choose_integer_kernel(question) if by_bits else choose_float_scheme(question)
    except (ValueError, RuntimeError) as error:
        return f"refused: {error}"


def main(request_path: Path, response_path: Path) -> None:
    """Answers every question of the request."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    questions = json.loads(request_path.read_text(encoding="utf-8"))
    import vllm.config  # noqa: PLC0415
    import vllm.model_executor.kernels.linear  # noqa: PLC0415 - as the CPU build that it is

    with vllm.config.set_current_vllm_config(vllm.config.VllmConfig()):
        answers = [choose_kernel(question) for question in questions]
    response_path.write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
