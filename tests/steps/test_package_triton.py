"""`package.triton`: what a repository holds, and what is refused before any work."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.engine_description import EngineDescription, read_engine_description
from llmopt.artifacts.engine_settings import BackendName, EngineSettings
from llmopt.artifacts.onnx_description import OnnxDescription, read_onnx_description
from llmopt.artifacts.optimization_profile import AxisRange, OptimizationProfile
from llmopt.artifacts.progress import SilentProgress
from llmopt.artifacts.triton_description import read_triton_description
from llmopt.errors import IncompatibleError, InputError
from llmopt.recipe.inputs import identify, validate_recipe
from llmopt.serving.target import Target
from llmopt.steps.base import Outcome, ResolvedInput, RunContext, StepInputs
from llmopt.steps.export_run import copy_sidecars
from llmopt.steps.package_triton import PackageTriton
from llmopt.triton.model_config import read_config
from tests.engine.descriptions import LIMIT, describe
from tests.export.encoders import export_bert, make_bert
from tests.export.exports import export, make_gptq_model
from tests.models import VOCAB_SIZE, edit_json, make_model
from tests.quant.pipeline import make_small_model
from tests.recipe.harness import load

pytestmark = pytest.mark.usefixtures("one_thread")
PREFILL = {"batch": (1, 1, 4), "sequence": (1, 32, 64), "past_sequence": (0, 0, 0)}
DECODE = {"batch": (1, 4, 8), "sequence": (1, 1, 1), "past_sequence": (1, 64, 255)}


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


def make_step(shape: str = "generate", **fields: object) -> PackageTriton:
    given = {"uses": "package.triton", "shape": shape, "model": "served", "model_name": "apparel"}
    return PackageTriton.model_validate({**given, **fields})


def given(kind: str, folder: Path, tokenizer: Path | None = None) -> StepInputs:
    inputs = {"model": ResolvedInput("served", kind, "", folder)}  # type: ignore[arg-type]
    if tokenizer is not None:
        inputs["tokenizer"] = ResolvedInput("base", "checkpoint", "", tokenizer)
    return inputs


def run(step: PackageTriton, inputs: StepInputs, folder: Path) -> Outcome:
    folder.mkdir(parents=True)
    return step.run(inputs, RunContext(folder, folder / "scratch", "cpu", 1, SilentProgress()))


def describe_export(folder: Path, **changes: Any) -> Path:
    """Writes the description of an export that need not be there."""
    folder.mkdir(parents=True)
    description = describe().model_copy(update={"dtype": "float32", **changes})
    OnnxDescription.model_validate(description.model_dump()).write(folder)
    return folder


def describe_engine(
    folder: Path,
    backend: BackendName = "tensorrt",
    version: str = "10.5.0",
    profiles: dict[str, dict[str, tuple[int, int, int]]] | None = None,
    **changes: Any,
) -> Path:
    """Writes the description of an engine that need not be there."""
    folder.mkdir(parents=True)
    named = {"prefill": PREFILL, "decode": DECODE} if profiles is None else profiles
    EngineDescription(
        backend=backend,
        tensorrt_version=version,
        compute_capabilities=("8.9",),
        model=describe().model_copy(update=changes),
        profiles=tuple(
            OptimizationProfile(
                name=name,
                axes={a: AxisRange(min=s[0], opt=s[1], max=s[2]) for a, s in axes.items()},
            )
            for name, axes in named.items()
        ),
        settings=EngineSettings(),
        onnx_sha256="0" * 64,
        weights_sha256=None,
        engine_sha256="1" * 64,
    ).write(folder)
    return folder


def test_a_generating_repository_is_whole_and_needs_no_llmopt(
    model: Path, exported: Path, tmp_path: Path
) -> None:
    outcome = run(make_step(version=2), given("onnx_model", exported, model), tmp_path / "repo")
    version_folder = tmp_path / "repo" / "apparel" / "2"
    for name in ("model.onnx", "model.onnx.data"):
        assert (version_folder / name).samefile(exported / name), name
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
    (engine / "model.engine").write_bytes(b"plan")
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
    assert (version_folder / "checkpoint" / "model.safetensors").samefile(
        gptq / "model.safetensors"
    )
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
    assert "nvcr.io/nvidia/tritonserver:24.10-vllm-python-py3" in readme
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
    assert "text_input" in (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")


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


ENSEMBLE = {"shape": "ensemble", "task": "score"}
REFUSED_EXPORTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no cache": ({}, {"kv_cache": False}, "without a key-value cache generates no text"),
    "an encoder": ({}, {"task": "fill_mask"}, "exported for fill_mask generates no text"),
    "bfloat16": ({}, {"dtype": "bfloat16"}, "exported in bfloat16"),
    "the answer fills the context": (
        {"default_max_tokens": LIMIT},
        {},
        f"default_max_tokens is {LIMIT}; prompt and answer together have {LIMIT}",
    ),
    "operators beyond Python 3.10": ({}, {"opset": 24}, "onnxruntime 1.23.2, the last for its"),
    "a delay over the budget": (
        {**ENSEMBLE, "max_queue_delay_ms": 100, "latency_budget_ms": 50},
        {},
        "max_queue_delay_ms is 100, above latency_budget_ms 50",
    ),
    "operators beyond the backend": (ENSEMBLE, {"opset": 22}, "its onnxruntime 1.19.2 loads 21"),
    "a cache that nobody feeds": (ENSEMBLE, {"last_token_logits": True}, "a key-value cache"),
    "all logits": (ENSEMBLE, {"kv_cache": False}, "it returns the logits of every token"),
    "another task": (
        {**ENSEMBLE, "task": "embed"},
        {"task": "fill_mask"},
        "task: embed can't serve this llama: it was exported for fill_mask",
    ),
    "session options": (
        ENSEMBLE,
        {"kv_cache": False, "last_token_logits": True, "weights": "qdq_int4"},
        "weights: qdq_int4 needs onnxruntime's session option",
    ),
    "a bucket beyond the positions": (
        {**ENSEMBLE, "buckets": [64, 512]},
        {"kv_cache": False, "last_token_logits": True},
        f"bucket 512 is beyond the model's max_position_embeddings {LIMIT}",
    ),
}


@pytest.mark.parametrize("case", REFUSED_EXPORTS)
def test_exports_that_the_server_could_not_serve_so_are_refused(case: str, tmp_path: Path) -> None:
    fields, changes, message = REFUSED_EXPORTS[case]
    folder = describe_export(tmp_path / "onnx", **changes)
    with pytest.raises(IncompatibleError) as caught:
        make_step(**fields).preflight(given("onnx_model", folder), None)
    assert message in caught.value.message
    assert caught.value.remedy


ONE_PASS = {"kv_cache": False, "last_token_logits": True}
BY_BUCKET = {
    "short": {"batch": (1, 4, 8), "sequence": (1, 64, 64)},
    "long": {"batch": (1, 4, 8), "sequence": (65, 128, 128)},
}
REFUSED_ENGINES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "on a CPU": ({"device": "cpu"}, {}, "which runs on no CPU"),
    "rows that no profile decodes": ({"max_batch_size": 16}, {}, "decodes 8 rows at once"),
    "no profile to prefill with": ({}, {"profiles": {"decode": DECODE}}, "no profile to prefill"),
    "TensorRT-RTX as a plan": (
        ENSEMBLE,
        {"backend": "tensorrt_rtx", "version": "1.7.0", **ONE_PASS},
        "Triton's tensorrt backend loads engines of tensorrt alone",
    ),
    "a plan of another TensorRT": (
        ENSEMBLE,
        {"version": "10.13.3"},
        "is of TensorRT 10.13.3; the container of release 24.10 has 10.5",
    ),
    "a plan of a TensorRT that begins alike": (ENSEMBLE, {"version": "10.50"}, "has 10.5"),
    "a bucket outside the profiles": (
        {**ENSEMBLE, "buckets": [64, 200]},
        {"profiles": BY_BUCKET, **ONE_PASS},
        "no profile of the engine takes 1 rows of 200 tokens (short: batch 1:4:8, sequence 1:64:64",
    ),
    "a batch outside the profiles": (
        {**ENSEMBLE, "max_batch_size": 9},
        {"profiles": BY_BUCKET, **ONE_PASS},
        "takes 9 rows of 64 tokens",
    ),
}


@pytest.mark.parametrize("case", REFUSED_ENGINES)
def test_engines_that_the_server_could_not_serve_so_are_refused(
    case: str, model: Path, tmp_path: Path
) -> None:
    fields, changes, message = REFUSED_ENGINES[case]
    folder = describe_engine(tmp_path / "engine", **changes)
    with pytest.raises(IncompatibleError) as caught:
        make_step(**fields).preflight(given("tensorrt_engine", folder, model), None)
    assert message in caught.value.message
    assert caught.value.remedy


def test_engines_in_reach_of_the_release_are_taken(model: Path, tmp_path: Path) -> None:
    generating = describe_engine(tmp_path / "rtx", "tensorrt_rtx", "1.7.0")
    make_step().preflight(given("tensorrt_engine", generating, model), None)
    plan = describe_engine(tmp_path / "plan", profiles=BY_BUCKET, **ONE_PASS)
    make_step(**ENSEMBLE).preflight(given("tensorrt_engine", plan, model), None)
    with pytest.raises(IncompatibleError, match="an engine, which holds no tokenizer"):
        make_step().preflight(given("tensorrt_engine", generating), None)


def test_each_shape_serves_its_own_kinds(model: Path, exported: Path) -> None:
    with pytest.raises(IncompatibleError, match="shape vllm serves a checkpoint or a"):
        make_step("vllm").preflight(given("onnx_model", exported), None)
    with pytest.raises(
        IncompatibleError, match="shape generate serves a onnx_model or a"
    ) as caught:
        make_step().preflight(given("checkpoint", model), None)
    assert caught.value.remedy == "use shape: vllm"


@pytest.mark.parametrize(
    ("scheme", "fields", "target", "message"),
    [
        ("asym", {}, None, "format gptq must be symmetric"),
        ("3_bits", {}, None, "3 bits are not served"),
        ("act_order", {}, None, "act-order with groups is no longer served"),
        ("8_bits", {}, Target(runtime="vllm", device="cpu"), "take 4 bits, not 8"),
        ("sym", {"engine_args": {"tensor_parallel_size": 3}}, None, "tp 3"),
        ("sym", {"engine_args": {"max_model_len": 4096}}, None, "4096"),
    ],
)
def test_checkpoints_that_vllm_does_not_load_are_refused(
    tmp_path: Path, scheme: str, fields: dict[str, Any], target: Target | None, message: str
) -> None:
    checkpoint = make_gptq_model(tmp_path, scheme)
    with pytest.raises(IncompatibleError) as caught:
        make_step("vllm", **fields).preflight(given("quantized_checkpoint", checkpoint), target)
    assert message in caught.value.message


def test_a_family_that_is_not_known_here_is_left_to_vllm(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", dtype=torch.bfloat16)
    edit_json(model / "config.json", model_type="gemma3_text")
    make_step("vllm").preflight(given("checkpoint", model), None)


def recipe_of(tmp_path: Path, model: Path, package: dict[str, Any], **steps: Any) -> dict[str, Any]:
    made = {"uses": "package.triton", "model": list(steps)[-1], "tokenizer": "base", **package}
    return {
        "version": 1,
        "name": "coming",
        "sources": {"base": str(model)},
        "steps": {**steps, "repository": made},
    }


ONNX = {"uses": "export.onnx", "model": "base"}
ENGINE = {
    "uses": "build.tensorrt",
    "onnx": "onnx",
    "profiles": {"p": {"batch": [1, 4, 8], "sequence": {"buckets": [32, 64]}}},
}
COMING: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no cache": (
        {"shape": "generate"},
        {"onnx": {**ONNX, "kv_cache": False}},
        "onnx is to be exported without a key-value cache",
    ),
    "bfloat16": (
        {"shape": "generate"},
        {"onnx": {**ONNX, "dtype": "bfloat16"}},
        "to be exported in bfloat16",
    ),
    "operators": (
        ENSEMBLE,
        {"onnx": {**ONNX, "kv_cache": False, "last_token_logits": True, "opset": 23}},
        "onnx was exported with opset 23",
    ),
    "all logits": (
        ENSEMBLE,
        {"onnx": {**ONNX, "kv_cache": False}},
        "task: score can't serve what onnx is to export",
    ),
    "a plan of TensorRT-RTX": (
        ENSEMBLE,
        {"onnx": ONNX, "engine": {**ENGINE, "backend": "tensorrt_rtx"}},
        "engine is to be an engine of tensorrt_rtx",
    ),
    "a plan of another version": (
        ENSEMBLE,
        {"onnx": ONNX, "engine": {**ENGINE, "backend": "tensorrt", "tensorrt_version": "10.9"}},
        "engine is of TensorRT 10.9; the container of release 24.10 has 10.5",
    ),
    "a bucket outside the profiles": (
        {**ENSEMBLE, "buckets": [32, 128]},
        {"onnx": ONNX, "engine": {**ENGINE, "backend": "tensorrt"}},
        "buckets holds 128, which no profile of engine takes",
    ),
    "an asymmetric grid": (
        {"shape": "vllm"},
        {"quantize": {"uses": "quantize.rtn", "model": "base", "group_size": 32, "sym": False}},
        "format gptq must be symmetric",
    ),
    "widths of an override": (
        {"shape": "vllm"},
        {
            "quantize": {
                "uses": "quantize.rtn",
                "model": "base",
                "group_size": 32,
                "overrides": [{"layers": "*.down_proj", "bits": 3}],
            }
        },
        "3 bits are not served",
    ),
}


@pytest.mark.parametrize("case", COMING)
def test_what_another_step_is_to_make_is_judged_before_it_is_made(
    case: str, model: Path, tmp_path: Path
) -> None:
    package, steps, message = COMING[case]
    if package["shape"] == "vllm":
        package = {**package, "tokenizer": None}
    with pytest.raises(IncompatibleError) as caught:
        validate_recipe(load(tmp_path, recipe_of(tmp_path, model, package, **steps)))
    assert message in caught.value.message
    assert caught.value.message.startswith("step repository: ")


def test_masks_are_filled_by_an_export_of_masked_positions(tmp_path: Path) -> None:
    package = {"shape": "ensemble", "task": "fill_mask"}
    model = make_bert(tmp_path / "model")
    with pytest.raises(IncompatibleError, match="fill_mask can't serve what onnx is") as caught:
        validate_recipe(load(tmp_path, recipe_of(tmp_path, model, package, onnx=ONNX)))
    assert "masked_positions: true" in str(caught.value.remedy)
    onnx = {**ONNX, "masked_positions": True}
    validate_recipe(load(tmp_path, recipe_of(tmp_path, model, package, onnx=onnx)))


def test_a_recipe_that_fits_validates(model: Path, tmp_path: Path) -> None:
    generate = recipe_of(tmp_path, model, {"shape": "generate"}, onnx=ONNX)
    validate_recipe(load(tmp_path, generate))


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


def test_a_model_without_a_tokenizer_is_refused(exported: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
        run(make_step(), given("onnx_model", exported, bare), tmp_path / "repo")
