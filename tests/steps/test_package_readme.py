"""README.md of a repository: its command's arguments start the real server, its curl is answered.

The repositories are written by the step, with what a server needs further arguments for.
"""

import json
import shlex
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.triton_description import REQUIREMENTS_NAME
from llmopt.triton.backends import STAND_IN_REQUIREMENTS, find_backend
from llmopt.triton.client import TritonClient
from llmopt.triton.model_environment import make_environment, read_requirements
from llmopt.triton.server import ServerOptions, TritonServer
from tests.export.encoders import export_bert, make_bert
from tests.steps.packages import given, make_step, run
from tests.triton.decoders import export_small_decoder

pytestmark = pytest.mark.usefixtures("one_thread", "server_distribution")
LIMITER = {"resources": {"slots": 1}, "priority": 2}
STANDS_IN = "onnxruntime"


@dataclass(frozen=True)
class Printed:
    """What a README tells to type."""

    arguments: tuple[str, ...]
    path: str
    body: bytes

    @classmethod
    def read(cls, repository: Path) -> "Printed":
        """Reads both commands as a shell does."""
        text = (repository / "README.md").read_text(encoding="utf-8")
        _, docker, _, curl, _ = text.split("```")
        *_, start = shlex.split(docker)[shlex.split(docker).index("-c") :]
        words = shlex.split(start.partition("&&")[2])
        assert words[:2] == ["tritonserver", "--model-repository=/models"]
        command = shlex.split(curl)
        assert (command[0], command[-2]) == ("curl", "-d")
        (url,) = (word for word in command if word.startswith("localhost:8000"))
        return cls(tuple(words[2:]), url.removeprefix("localhost:8000"), command[-1].encode())


def start(repository: Path, printed: Printed) -> TritonServer:
    """Returns the server of a repository as its README starts it, with a stand-in's backend."""
    own = read_requirements(repository / REQUIREMENTS_NAME)
    environment = make_environment((*own, *STAND_IN_REQUIREMENTS[STANDS_IN]), print)
    options = ServerOptions(
        strict=False,  # the README says whether
        arguments=printed.arguments,
        backends={STANDS_IN: find_backend(STANDS_IN)},
    )
    return TritonServer(repository, environment, repository.with_name("server.log"), options)


def ask(server: TritonServer, printed: Printed) -> dict[str, Any]:
    """Sends what the README's curl sends."""
    url = f"http://{server.http_address}{printed.path}"
    with urllib.request.urlopen(urllib.request.Request(url, printed.body), timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_a_generating_model_s_version_instances_and_resources(tmp_path: Path) -> None:
    made = export_small_decoder(tmp_path / "decoder")
    step = make_step(
        version=2, version_policy=[2], instances=2, rate_limiter=LIMITER, device="cpu", threads=1
    )
    repository = tmp_path / "repository"
    run(step, given("onnx_model", made.folder, made.model), repository)
    printed = Printed.read(repository)
    assert printed.arguments == (
        "--disable-auto-complete-config",
        "--rate-limit=execution_count",
        "--rate-limit-resource=slots:1",
    )
    with start(repository, printed) as server:
        client = TritonClient.of(server)
        assert client.is_ready("apparel", "2")
        assert not client.is_ready("apparel", "1")
        answer = ask(server, printed)
        assert answer["model_version"] == "2"
        assert answer["text_output"]
        (group,) = client.read_config("apparel")["instance_group"]
        assert group["count"] == 2
        assert group["rate_limiter"]["resources"] == [
            {"name": "slots", "global": False, "count": 1}
        ]
    log = server.log_path.read_text(encoding="utf-8")
    assert '"name":"slots", "count":1' in log
    for instance in ("apparel_0_0", "apparel_0_1"):
        assert instance in log


def test_an_ensemble_s_cache(tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model")
    export_bert(model, tmp_path / "onnx", "embed")
    step = make_step("ensemble", task="embed", buckets=[32], response_cache=True, threads=1)
    repository = tmp_path / "repository"
    run(step, given("onnx_model", tmp_path / "onnx", model), repository)
    printed = Printed.read(repository)
    assert printed.arguments[0] == "--disable-auto-complete-config"
    assert printed.arguments[1].startswith("--cache-config=local,size=")
    with start(repository, printed) as server:
        first, second = (ask(server, printed) for _ in range(2))
        counts = TritonClient.of(server).read_statistics("apparel_engine")["inference_stats"]
    assert first["outputs"] == second["outputs"]
    assert first["outputs"][0]["name"] == "embedding"
    assert counts["cache_hit"]["count"] == 1
