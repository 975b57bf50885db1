"""All step types, as one union discriminated by `uses`. A new step is one line here."""

from typing import Annotated, get_args

from pydantic import Field

from llmopt.steps.base import StepBase
from llmopt.steps.bench_onnx import BenchOnnx
from llmopt.steps.bench_triton import BenchTriton
from llmopt.steps.build_tensorrt import BuildTensorrt
from llmopt.steps.eval_compare import EvalCompare
from llmopt.steps.eval_gate import EvalGate
from llmopt.steps.eval_lm_eval import EvalLmEval
from llmopt.steps.eval_perplexity import EvalPerplexity
from llmopt.steps.eval_techpack import EvalTechpack
from llmopt.steps.export_onnx import ExportOnnx
from llmopt.steps.package_triton import PackageTriton
from llmopt.steps.quantize_fp8 import QuantizeFp8
from llmopt.steps.quantize_gptq import QuantizeGptq
from llmopt.steps.quantize_int8 import QuantizeInt8
from llmopt.steps.quantize_nf4 import QuantizeNf4
from llmopt.steps.quantize_rtn import QuantizeRtn

Step = Annotated[
    QuantizeGptq
    | QuantizeRtn
    | QuantizeNf4
    | QuantizeFp8
    | QuantizeInt8
    | EvalPerplexity
    | EvalCompare
    | EvalGate
    | EvalTechpack
    | EvalLmEval
    | ExportOnnx
    | BenchOnnx
    | BuildTensorrt
    | PackageTriton
    | BenchTriton,
    Field(discriminator="uses"),
]


def step_types() -> dict[str, type[StepBase]]:
    """Returns every step type by the name that recipes write in `uses`."""
    return {
        cls.model_fields["uses"].annotation.__args__[0]: cls for cls in get_args(get_args(Step)[0])
    }
