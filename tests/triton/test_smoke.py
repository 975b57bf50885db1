"""A repository tried with one prompt: what is compared, overridden, left as it is, and refused."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.onnx_session import open_session
from llmopt.artifacts.triton_description import EngineFacts, RepositoryModel, TritonDescription
from llmopt.errors import CapabilityError, NumericalError
from llmopt.export.session import OnnxDecoder
from llmopt.triton.cpu_configs import list_cpu_changes, make_cpu_config
from llmopt.triton.generate_model import GENERATE_REQUIREMENTS
from llmopt.triton.grpc_client import Array
from llmopt.triton.model_config import read_config, write_config
from llmopt.triton.model_environment import ModelEnvironment
from llmopt.triton.served_repository import TrialOptions
from llmopt.triton.server import TritonServer
from llmopt.triton.server_distribution import ServerDistribution
from llmopt.triton.smoke import SmokeReport, smoke_repository
from llmopt.triton.smoke_answers import Expected, ask_ensemble
from tests.triton.decoders import ExportedDecoder
from tests.triton.generate_repository import add_generate_model
from tests.triton.repositories import (
    ENSEMBLE,
    ENSEMBLE_WITH_NEGATE,
    MEASURE,
    NEGATE,
    add_model,
    describe_repository,
)

NUM_TOKENS = 12
WHOLE = RepositoryModel(name="whole", role="ensemble", backend="ensemble")
STEP = RepositoryModel(name="measure", role="postprocessor", backend="python")
SIZES: dict[str, Array] = {"embedding": np.array([[7 / 3, 7.0]], np.float32)}  # "シャツの前立て"


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def smoke(
    folder: Path, description: TritonDescription, expected: Expected, **options: object
) -> SmokeReport:
    settings = replace(TrialOptions(folder.parent / "server.log"), **options)  # type: ignore[arg-type]
    return smoke_repository(folder, description, expected, settings, print)


@pytest.fixture
def ensemble(tmp_path: Path) -> Path:
    """A repository of an ensemble over one python model, meant for a GPU."""
    folder = tmp_path / "repository"
    add_model(folder, "measure", MEASURE, "measure.py")
    (folder / "whole" / "1").mkdir(parents=True)
    (folder / "whole" / "config.pbtxt").write_text(ENSEMBLE)
    (folder / "requirements.txt").write_text("numpy>=1.26\n")
    return folder


@pytest.fixture
def generate(exported_decoder: ExportedDecoder, tmp_path: Path) -> Path:
    """A repository that generates text, meant for a GPU and an environment of another machine."""
    folder = tmp_path / "repository"
    folder.mkdir()
    onnx, description = exported_decoder.folder, exported_decoder.description
    add_generate_model(folder, "apparel", onnx, description, exported_decoder.model)
    config = read_config(folder / "apparel")
    config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_GPU
    config.parameters["EXECUTION_ENV_PATH"].string_value = "/models/apparel/environment.tar.gz"
    write_config(folder / "apparel", config)
    requirements = ("# of the GPU server", "onnxruntime-gpu", *GENERATE_REQUIREMENTS)
    (folder / "requirements.txt").write_text("\n".join(requirements))
    return folder


def describe_generate() -> TritonDescription:
    models = (RepositoryModel(name="apparel", role="generate", backend="python"),)
    return describe_repository("generate", models, task="generate", device="cuda")


def decode_directly(decoder: ExportedDecoder, prompt: str) -> str:
    """Decodes greedily by the export's own session, without any code of the repository."""
    tokenizer = Tokenizer.from_file(str(decoder.model / "tokenizer.json"))
    session = open_session(decoder.folder, decoder.description, threads=1)
    (tokens,) = OnnxDecoder(session, decoder.description).generate(
        [tokenizer.encode(prompt).ids], NUM_TOKENS
    )
    assert 2 not in tokens, "the prompt should be one whose answer does not end early"
    text: str = tokenizer.decode(tokens)
    return text


def test_generated_text_is_that_of_the_export(
    generate: Path, exported_decoder: ExportedDecoder, server_distribution: ServerDistribution
) -> None:
    before = read_files(generate)
    description = describe_generate()
    text = decode_directly(exported_decoder, description.prompt)
    report = smoke(generate, description, Expected(text, NUM_TOKENS))
    assert report.answer.text == text
    assert len(text) >= NUM_TOKENS / 2
    assert report.overridden == {
        "apparel": (
            "on the CPU, not on a GPU",
            "in an environment made here, not in its EXECUTION_ENV_PATH",
        )
    }
    assert report.server_release == "24.10"
    assert 0 < (report.answer.first_response_s or 0) < 60
    assert "is that of the model run directly" in report.answer.checked[0]
    assert read_files(generate) == before, "files were changed"
    with pytest.raises(NumericalError, match=r"apparel answers '.+' over HTTP; .* gives 'else'"):
        smoke(generate, description, Expected("else", NUM_TOKENS))


def test_an_ensemble_meant_for_a_gpu(
    ensemble: Path, server_distribution: ServerDistribution
) -> None:
    before = read_files(ensemble)
    report = smoke(
        ensemble, describe_repository("ensemble", (WHOLE, STEP)), Expected(outputs=SIZES)
    )
    assert report.overridden == {"measure": ("on the CPU, not on a GPU",)}
    assert report.stand_ins == ()
    assert '"first": "シ"' in report.answer.text
    assert report.answer.first_response_s is None
    assert report.answer.checked == (
        "embedding, first: over HTTP as over gRPC",
        "embedding: as the model run directly, within 0.001",
    )
    assert read_files(ensemble) == before, "files were changed"


def test_the_server_gets_the_cache_and_the_resources_that_configs_ask_for(
    ensemble: Path, server_distribution: ServerDistribution
) -> None:
    limited = 'kind: KIND_CPU rate_limiter { resources [ { name: "slots" count: 2 } ] }'
    config = ensemble / "measure" / "config.pbtxt"
    config.write_text(MEASURE.replace("kind: KIND_GPU gpus: [ 0 ]", limited))
    smoke(ensemble, describe_repository("ensemble", (WHOLE, STEP)), Expected(outputs=SIZES))
    log = (ensemble.parent / "server.log").read_text()
    assert re.search(r"rate_limit +\| EXEC_COUNT", log)
    assert '"name":"slots", "count":2' in log
    assert re.search(r"cache_enabled +\| 1", log)


def test_a_stand_in_runs_what_the_server_has_no_backend_for(
    ensemble: Path, server_distribution: ServerDistribution
) -> None:
    pair = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", pair[:1], pair[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (ensemble / "negate" / "1").mkdir(parents=True)
    save(model, ensemble / "negate" / "1" / "model.onnx")
    (ensemble / "negate" / "config.pbtxt").write_text(NEGATE)
    (ensemble / "whole" / "config.pbtxt").write_text(ENSEMBLE_WITH_NEGATE)
    (ensemble / "requirements.txt").write_text("\n".join(GENERATE_REQUIREMENTS))
    engine = RepositoryModel(name="negate", role="engine", backend="onnxruntime")
    report = smoke(
        ensemble,
        describe_repository("ensemble", (WHOLE, STEP, engine)),
        Expected(outputs={"embedding": -SIZES["embedding"]}),
    )
    assert report.stand_ins == ("onnxruntime",)
    assert report.overridden == {"measure": ("on the CPU, not on a GPU",)}
    assert len(report.answer.checked) == 2


def test_other_outputs_are_refused(ensemble: Path, bare_environment: ModelEnvironment) -> None:
    config = make_cpu_config(ensemble / "measure")
    (ensemble / "measure" / "config.pbtxt").write_text(MEASURE.replace("GPU gpus: [ 0 ]", "CPU"))
    assert make_cpu_config(ensemble / "measure") is None, "what runs on a CPU is left alone"
    assert list_cpu_changes(ensemble / "measure") == ()
    assert config is not None
    assert config["instance_group"] == [{"kind": "KIND_CPU"}]
    faults: dict[str, dict[str, Array]] = {
        "embedding differs by 0.01 between gRPC and": {"embedding": SIZES["embedding"] + 0.01},
        "embedding has 2 values and 1": {"embedding": SIZES["embedding"][:, :1]},
        r"first is \['シ'\] and \['ン'\]": {"first": np.array([["ン"]])},
    }
    whole = read_config(ensemble / "whole")
    with TritonServer(ensemble, bare_environment, ensemble.parent / "log") as server:
        for message, outputs in faults.items():
            with pytest.raises(NumericalError, match=message):
                ask_ensemble(server, whole, "シャツの前立て", Expected(outputs=outputs), 60)


def test_an_output_that_no_one_writes_is_found(
    ensemble: Path, server_distribution: ServerDistribution
) -> None:
    model = ensemble / "measure" / "1" / "model.py"
    model.write_text(model.read_text().replace('Tensor("first"', 'Tensor("frist"'))
    alone = describe_repository("ensemble", (STEP,))
    with pytest.raises(NumericalError, match="measure answers without its output first"):
        smoke(ensemble, alone, Expected())


def test_what_the_server_here_can_not_run(tmp_path: Path) -> None:
    engine = RepositoryModel(name="engine", role="engine", backend="tensorrt")
    with pytest.raises(CapabilityError, match=r"engine runs in the tensorrt backend; .* python"):
        smoke(tmp_path, describe_repository("ensemble", (WHOLE, engine)), Expected())
    facts = EngineFacts(
        backend="tensorrt_rtx",
        tensorrt_version="1.7",
        compute_capabilities=("8.9",),
        profiles=(),
        sha256="0" * 64,
    )
    described = describe_generate().model_copy(update={"engine": facts})
    with pytest.raises(CapabilityError, match="apparel serves a tensorrt_rtx engine") as refused:
        smoke(tmp_path, described, Expected())
    assert "machine with a GPU" in (refused.value.remedy or "")
