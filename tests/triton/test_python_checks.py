"""Python models parsed, not run: which names and arrays are known, and what is no mistake."""

from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.python_arrays import infer_array
from llmopt.triton.checks.python_source import find_argument, read_python_source
from llmopt.triton.checks.python_texts import find_texts
from llmopt.triton.checks.repository_check import check_repository

HEAD = "import numpy as np\nimport triton_python_backend_utils as pb_utils\n"
CONFIG = """name: "model"
backend: "python"
input { name: "IN" data_type: TYPE_FP32 dims: [ 2 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] }
"""
PLAIN = f"""{HEAD}
class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        array = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", array)])
"""


def write_source(folder: Path, text: str, **others: str) -> Path:
    """Writes model.py and files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(text, encoding="utf-8")
    for name, other in others.items():
        (folder / f"{name}.py").write_text(other, encoding="utf-8")
    return folder


def read_names(folder: Path) -> frozenset[str] | None:
    """Returns what the first argument of the one call of Tensor may be."""
    source = read_python_source(folder, (3, 12))
    ((file, call),) = source.calls("Tensor")
    return find_texts(source, file, find_argument(call, 0, "name"))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('Tensor("A", x)', {"A"}),
        ('Tensor(name="A", data=x)', {"A"}),
        ('A = "a"\nTensor(A, x)', {"a"}),
        ('A: str = "a"\ndef f():\n    return Tensor(A, x)', {"a"}),
        ('[Tensor(n, x) for n in ("a", "b")]', {"a", "b"}),
        ('NAMES = ["a", "b"]\nfor n in NAMES:\n    Tensor(n, x)', {"a", "b"}),
        ('def f(n):\n    return Tensor(n, x)\nf("a")\nf("b")', {"a", "b"}),
        ('class C:\n def f(self, n):\n  Tensor(n, x)\n def g(self):\n  self.f("a")', {"a"}),
        ('def f():\n    n = "a"\n    return Tensor(n, x)', {"a"}),
        ("from .other import NAME\nTensor(NAME, x)", {"elsewhere"}),
        ("Tensor(names[0], x)", None),
        ('def f(n):\n    return Tensor(n, x)\nf("a")\nf(g())', None),
        ("def f(n):\n    return Tensor(n, x)", None),
        ('def f(n="a"):\n    return Tensor(n, x)\nf()', None),
        ("from .missing import NAME\nTensor(NAME, x)", None),
        ("def f(n):\n    f(n)\n    return Tensor(n, x)\nf(n)", None),
    ],
)  # fmt: skip
def test_names_are_followed_as_far_as_they_are_certain(
    source: str, names: set[str] | None, tmp_path: Path
) -> None:
    write_source(tmp_path, source, other='NAME = "elsewhere"')
    assert read_names(tmp_path) == names


@pytest.mark.parametrize(
    ("expression", "data_type", "shape"),
    [
        ("x.astype(np.float32)", pb.TYPE_FP32, None),
        ('x.astype("int64")', pb.TYPE_INT64, None),
        ("np.array([t], dtype=object)", pb.TYPE_STRING, None),
        ("np.array([t], object).reshape(-1, 1)", pb.TYPE_STRING, (None, 1)),
        ("np.zeros((len(x), 3))", pb.TYPE_FP64, (None, 3)),
        ("np.zeros(shape, np.float16)", pb.TYPE_FP16, None),
        ("np.full((2, 3), 1, np.int32)", pb.TYPE_INT32, (2, 3)),
        ("np.full((2, 3), 1)", None, (2, 3)),
        ("np.ones(4, bool)", pb.TYPE_BOOL, (4,)),
        ("np.asarray(x)", None, None),
        ("np.ascontiguousarray(x.astype(np.uint8))", pb.TYPE_UINT8, None),
        ("x.astype(kind)", None, None),
        ("x.reshape(shape)", None, None),
        ("x.reshape(*shape, 2)", None, None),
        ("x.reshape((-1, 2))", None, (None, 2)),
        ("local", pb.TYPE_INT32, (None,)),
        ("twice", None, None),
        ("torch.zeros((2, 3))", None, None),
        ("function(x)", None, None),
    ],
)
def test_arrays_are_inferred_as_far_as_they_are_certain(
    expression: str, data_type: int | None, shape: tuple[int | None, ...] | None, tmp_path: Path
) -> None:
    text = (
        "def f(x, kind, shape, t):\n"
        "    local = np.zeros(len(x), np.int32).reshape(-1)\n"
        "    twice = x.astype(np.int32)\n"
        "    twice = x.astype(np.int64)\n"
        f'    return Tensor("A", {expression})\n'
    )
    source = read_python_source(write_source(tmp_path, text), (3, 12))
    ((_, call),) = source.calls("Tensor")
    facts = infer_array(source, find_argument(call, 1, "data"))
    assert (facts.data_type, facts.shape) == (data_type, shape)


@pytest.mark.parametrize(
    "source",
    [
        PLAIN,
        PLAIN.replace("    def execute(self", "    async def execute(self"),
        PLAIN.replace("class TritonPythonModel:", "class TritonPythonModel(Base):").replace(
            HEAD, f"{HEAD}\nclass Base:\n    pass\n"
        ),
        PLAIN.replace(HEAD, f"{HEAD}try:\n    from .fast import run\nexcept ImportError:\n"
                            "    run = None\n"),
        PLAIN.replace(HEAD, f"{HEAD}from .other import *\n").replace("array)", "starred(array))"),
        PLAIN.replace("array)", "array * FACTOR)").replace(
            "    def answer", "    def initialize(self, args):\n        global FACTOR\n"
                          "        FACTOR = 2\n\n    def answer"
        ),
        PLAIN.replace("def execute(self, requests)", "def execute(self, *requests)"),
        PLAIN.replace("    def answer", "    def finalize(self):\n        print(__file__)\n\n"
                      "    def answer"),
        PLAIN.replace("array)", "array, *[pb_utils.Tensor(f'{i}', array) for i in ()])"),
        PLAIN + "\ndef spare(request):\n    return pb_utils.Tensor('OTHER', request)\n",
    ],
)  # fmt: skip
def test_what_is_no_mistake_is_not_called_so(source: str, tmp_path: Path) -> None:
    write_source(tmp_path / "model" / "1", source, other="def starred(array):\n    return array\n")
    (tmp_path / "model" / "config.pbtxt").write_text(CONFIG, encoding="utf-8")
    assert [str(fault) for fault in check_repository(tmp_path).faults] == []


def test_names_that_are_not_constant_are_said_to_be_unchecked(tmp_path: Path) -> None:
    write_source(tmp_path / "model" / "1", PLAIN.replace('"OUT"', 'str("OUT")'))
    (tmp_path / "model" / "config.pbtxt").write_text(CONFIG, encoding="utf-8")
    report = check_repository(tmp_path)
    assert report.faults == []
    assert "model: which outputs 1/model.py writes: not all names are constants" in (
        report.not_checked
    )


def test_the_shipped_runtimes_are_parsed_whole() -> None:
    from llmopt.triton import runtime  # noqa: PLC0415 - only its place

    folder = Path(runtime.__path__[0]) / "generate"
    source = read_python_source(folder, (3, 10))
    assert source.broken == {}
    assert {"model.py", "scheduler.py", "onnx_decoder.py"} <= set(source.trees)
    written = {
        name
        for file, call in source.calls("Tensor")
        for name in find_texts(source, file, find_argument(call, 0, "name")) or {"unknown"}
    }
    assert written == {"text_output", "finish_reason", "num_input_tokens", "num_output_tokens"}
