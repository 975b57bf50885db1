"""`package.triton`: what a repository holds, and which fields can't be meant."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.engine_description import read_engine_description
from llmopt.artifacts.onnx_description import read_onnx_description
from llmopt.artifacts.triton_description import read_triton_description
from llmopt.engine import cuda_driver
from llmopt.errors import IncompatibleError, InputError
from llmopt.recipe.inputs import identify
from llmopt.steps.export_run import copy_sidecars
from llmopt.triton.model_config import read_config
from tests.export.encoders import export_bert, make_bert
from tests.export.exports import export, make_gptq_model
from tests.models import VOCAB_SIZE, edit_json
from tests.quant.pipeline import make_small_model
from tests.steps.packages import describe_engine, given, make_step, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 2 blocks; do not write into it."""
    return make_small_model(tmp_path_factory.mktemp("model") / "model", vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export with a key-value cache; do not write into it."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export(model, folder, last_token_logits=True)
    return folder


@pytest.fixture(scope="module")
def gptq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What symmetric 4-bit GPTQ makes of such a model; do not write into it."""
    return make_gptq_model(tmp_path_factory.mktemp("gptq"))


def test_a_generating_repository_is_whole_and_needs_no_llmopt(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    outcome = run(make_step(version=2), given("onnx_model", exported, model), tmp_path / "repo")
    version_folder = tmp_path / "repo" / "apparel" / "2"
    for name in ("model.onnx", "model.onnx.data"):
        assert (version_folder / name).read_bytes() == (exported / name).read_bytes(), name
    config = read_config(tmp_path / "repo" / "apparel")
    assert (config.name, config.backend, config.max_batch_size) == ("apparel", "python", 0)
    assert config.model_transaction_policy.decoupled
    assert not config.HasField("dynamic_batching")
    assert all(tensor.optional for tensor in config.input)
    assert {tensor.name: list(tensor.dims) for tensor in config.output} == {
        "text_output": [1],
        "finish_reason": [1],
        "num_input_tokens": [1],
        "num_output_tokens": [1],
    }
    for module in version_folder.glob("*.py"):
        for node in ast.walk(
            ast.parse(module.read_text(encoding="utf-8"), feature_version=(3, 10))
        ):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "llmopt" for name in names), module.name
    description = read_triton_description(tmp_path / "repo")
    assert description.model == read_onnx_description(exported)
    assert (description.device, description.max_batch_size) == ("cpu", 8)
    assert description.find_model("generate").name == "apparel"
    requirements = (tmp_path / "repo" / "requirements.txt").read_text(encoding="utf-8")
    assert "numpy>=1.26,<2\nonnxruntime==1.23.2\n" in requirements
    assert outcome.metrics["models"] == ["apparel"]


def test_the_export_s_own_tokenizer_stands_in_for_one_that_is_not_named(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "onnx"))
    copy_sidecars(model, folder)
    run(make_step(), given("onnx_model", folder), tmp_path / "own")
    run(make_step(), given("onnx_model", exported, model), tmp_path / "named")
    for name in ("tokenizer.json", "generation.json"):
        own, named = (tmp_path / each / "apparel" / "1" / name for each in ("own", "named"))
        assert own.read_bytes() == named.read_bytes(), name


def test_a_generating_engine_brings_its_tensorrt_and_driver(model: Path, tmp_path: Path) -> None:
    engine = describe_engine(tmp_path / "engine", "tensorrt_rtx", "1.7.0", vocab_size=VOCAB_SIZE)
    run(make_step(), given("tensorrt_engine", engine, model), tmp_path / "repo")
    version_folder = tmp_path / "repo" / "apparel" / "1"
    assert (version_folder / "model.engine").read_bytes() == b"plan"
    assert (version_folder / "cuda_driver.py").exists()
    requirements = (tmp_path / "repo" / "requirements.txt").read_text(encoding="utf-8")
    assert "tensorrt_rtx==1.7.0" in requirements
    (group,) = read_config(tmp_path / "repo" / "apparel").instance_group
    assert group.kind == pb.ModelInstanceGroup.KIND_GPU
    description = read_triton_description(tmp_path / "repo")
    assert description.engine is not None
    assert description.engine.profiles == read_engine_description(engine).profiles
    assert description.device == "cuda"


def test_parameters_that_the_server_would_not_take_are_refused(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    step = make_step(parameters={"EXECUTION_ENV_PATH": "environment"})
    with pytest.raises(
        IncompatibleError, match=r"config\.pbtxt: parameters\.EXECUTION_ENV_PATH is"
    ):
        run(step, given("onnx_model", exported, model), tmp_path / "repo")


def test_versions_that_are_yet_to_come_may_be_named(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    step = make_step(version=3, version_policy=[1, 3])
    run(step, given("onnx_model", exported, model), tmp_path / "repo")
    policy = read_config(tmp_path / "repo" / "apparel").version_policy
    assert list(policy.specific.versions) == [1, 3]


def test_the_readme_starts_a_server_with_the_resources_that_the_model_takes(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    step = make_step(rate_limiter={"resources": {"slots": 2}}, response_cache=False)
    run(step, given("onnx_model", exported, model), tmp_path / "repo")
    readme = (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")
    assert "--model-repository=/models --disable-auto-complete-config" in readme
    assert " --rate-limit=execution_count" in readme
    assert " --rate-limit-resource=slots:2" in readme
    assert "--cache-config" not in readme


def test_a_vllm_repository_holds_the_checkpoint_and_the_engine_s_arguments(
    gptq: Path, tmp_path: Path
) -> None:
    step = make_step("vllm", server_path="/srv/models/", engine_args={"max_model_len": 128})
    run(step, given("quantized_checkpoint", gptq), tmp_path / "repo")
    version_folder = tmp_path / "repo" / "apparel" / "1"
    arguments = json.loads((version_folder / "model.json").read_text(encoding="utf-8"))
    assert arguments == {"model": "/srv/models/apparel/1/checkpoint", "max_model_len": 128}
    placed = {path.name for path in (version_folder / "checkpoint").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= placed
    assert "manifest.json" not in placed
    for path in (version_folder / "checkpoint").iterdir():
        is_linked = path.samefile(gptq / path.name)
        assert is_linked == (path.suffix == ".safetensors"), "small files are the user's to edit"
    config = read_config(tmp_path / "repo" / "apparel")
    assert (config.backend, config.max_batch_size) == ("vllm", 0)
    assert config.model_transaction_policy.decoupled
    assert not config.HasField("dynamic_batching")
    assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_MODEL]
    assert {tensor.name: tensor.optional for tensor in config.input} == {
        "text_input": False,
        "stream": True,
        "sampling_parameters": True,
        "exclude_input_in_output": True,
    }
    assert [(t.name, list(t.dims)) for t in config.output] == [("text_output", [-1])]
    description = read_triton_description(tmp_path / "repo")
    assert (description.model, description.device) == (None, "cuda")
    readme = (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")
    assert '"$NGC/tritonserver:24.10-vllm-python-py3"' in readme
    assert "pip install" not in readme


def test_an_ensemble_has_its_four_models_and_the_step_s_settings(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model")
    export_bert(model, tmp_path / "onnx", "embed")
    step = make_step(
        "ensemble",
        task="embed",
        buckets=[8, 32],
        max_queue_delay_ms=1.5,
        latency_budget_ms=10,
        preferred_batch_sizes=[4],
        threads=2,
        instances=2,
        response_cache=True,
    )
    run(step, given("onnx_model", tmp_path / "onnx", model), tmp_path / "repo")
    description = read_triton_description(tmp_path / "repo")
    assert [(each.name, each.role) for each in description.models] == [
        ("apparel", "ensemble"),
        ("apparel_tokenizer", "tokenizer"),
        ("apparel_engine", "engine"),
        ("apparel_postprocessor", "postprocessor"),
    ]
    assert (description.task, description.buckets) == ("embed", (8, 32))
    engine = read_config(tmp_path / "repo" / "apparel_engine")
    assert engine.dynamic_batching.max_queue_delay_microseconds == 1500
    assert list(engine.dynamic_batching.preferred_batch_size) == [4]
    assert engine.instance_group[0].count == 2
    assert engine.response_cache.enable
    assert engine.parameters["intra_op_thread_count"].string_value == "2"
    readme = (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")
    assert "text_input" in readme
    assert " --cache-config=local,size=" in readme


@pytest.mark.parametrize("release", ["24.10", "26.08"])
def test_nf4_names_what_vllm_needs_beside_itself(tmp_path: Path, release: str) -> None:
    model = make_small_model(tmp_path / "model")
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    edit_json(model / "config.json", quantization_config=nf4, model_type="gemma3_text")
    step = make_step("vllm", triton_release=release)
    run(step, given("checkpoint", model), tmp_path / "repo")
    lines = (tmp_path / "repo" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["bitsandbytes"]
    assert "pip install" in (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"triton_release": "24.13"}, r"unknown release '24\.13'; did you mean 24\.12\?"),
        ({"model_name": "a/b"}, "'a/b' is no model name"),
        ({"buckets": [32]}, "buckets is for shape ensemble"),
        ({"response_cache": True}, "the server caches no answers of models that stream"),
        ({"engine_args": {"dtype": "auto"}}, "engine_args is for shape vllm"),
        ({"shape": "vllm", "max_batch_size": 4}, "vLLM has max_num_seqs"),
        ({"shape": "vllm", "gpus": [0]}, "set tensor_parallel_size in engine_args"),
        ({"shape": "vllm", "engine_args": {"model": "x"}}, "model is the step's own"),
        ({"shape": "vllm", "engine_args": {"max-model-len": 1}}, "write it as max_model_len"),
        (
            {"shape": "vllm", "engine_args": {"tensor_parallel_size": 0}},
            "tensor_parallel_size is 0; it must be a whole number",
        ),
        ({"shape": "vllm", "engine_args": {"max_model_len": "8k"}}, "max_model_len is '8k'"),
        ({"shape": "vllm", "smoke": True}, "the server that can be had here has no vllm backend"),
        ({"pack_environment": True, "environment_path": "/env"}, "not both"),
        ({"shape": "ensemble"}, "shape ensemble needs task"),
        ({"shape": "ensemble", "task": "embed", "buckets": [64, 32]}, "must rise"),
        (
            {"shape": "ensemble", "task": "embed", "preferred_batch_sizes": [4, 16]},
            "preferred_batch_sizes holds 16, above max_batch_size 8",
        ),
        ({"device": "cpu", "gpus": [0]}, "gpus names [0], but device is cpu"),
        ({"version": 2, "version_policy": [1, 3]}, "leaves out version 2"),
        ({"rate_limiter": {}}, "says nothing"),
        ({"rate_limiter": {"resources": {"a:b": 1}}}, "should match pattern"),
        ({"environment_path": "environment"}, "'environment' is no whole path"),
        ({"environment_path": "$$TRITON_MODEL_DIRECTORY/e"}, "comes from pack_environment"),
        ({"server_path": "models"}, "server_path"),
    ],
)
def test_fields_that_can_t_be_meant_are_refused(fields: dict[str, Any], message: str) -> None:
    pattern = message if "\\" in message else message.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValidationError, match=pattern):
        make_step(**fields)


def test_a_release_may_be_written_as_a_number() -> None:
    assert make_step(triton_release=24.10).triton_release == "24.10"
    assert make_step(triton_release=25.08).triton_release == "25.08"


def test_the_name_is_part_of_what_is_made_and_the_server_s_code_too(
    exported: Path, model: Path
) -> None:
    inputs = given("onnx_model", exported, model)
    named = make_step(model_name=None)
    assert named.served_name == "served"
    assert identify(named, inputs) == identify(make_step(model_name="served"), inputs)
    assert identify(named, inputs) != identify(make_step(model_name="other"), inputs)
    assert "runtime" in named.identity_settings()
    assert "runtime" not in named.settings()


@pytest.mark.parametrize(("shape", "is_copied"), [("generate", True), ("vllm", False)])
def test_the_driver_that_goes_with_engines_is_part_of_what_is_made(
    shape: str, is_copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_step(shape).identity_settings()["runtime"]
    changed = tmp_path / "cuda_driver.py"
    changed.write_bytes(Path(cuda_driver.__file__).read_bytes() + b"# changed\n")
    monkeypatch.setattr(cuda_driver, "__file__", str(changed))
    assert (make_step(shape).identity_settings()["runtime"] != before) == is_copied


def test_a_model_without_a_tokenizer_is_refused(exported: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
        run(make_step(), given("onnx_model", exported, bare), tmp_path / "repo")
