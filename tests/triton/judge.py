"""What the real tritonserver makes of a repository: refuses it, hangs, serves right or wrong."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from llmopt.errors import InputError, RequestFailed
from llmopt.triton.backends import find_backend
from llmopt.triton.client import TritonClient
from llmopt.triton.grpc_client import Array, GrpcClient
from llmopt.triton.model_environment import ModelEnvironment
from llmopt.triton.server import ServerOptions, TritonServer
from tests.triton.mistakes.planting import Mistake
from tests.triton.planted_files import plant_beside_good, read_models

LOAD_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 15.0
# It starts whatever fails, and then tells each model's state and reason.
LENIENT = ("--exit-on-error=false", "--strict-readiness=false")
NO_BACKEND = re.compile(r"unable to find backend library for backend '(tensorrt|vllm)'")
MAX_CHARACTERS = 300
# Where a message comes from: a place in the build of protobuf, or a trace of Python.
PLACES = re.compile(r"\[libprotobuf ERROR \S+\] | At: .*$")
NOISE = ("Internal: failed to load all models", "CUDA driver version is insufficient")
# What this server can't tell, and why.
UNTOLD = {
    "operators newer than the release's onnxruntime": "the onnxruntime here is newer",
    "grammar newer than the release's Python": "the Python here is newer",
    "an accelerator that onnxruntime does not have": "the stand-in does not read it",
    **dict.fromkeys(
        (
            "profiles that the engine does not have",
            "a context that the engine's profiles do not hold",
            "more prompts at once than the engine takes",
            "more slots than the engine decodes",
        ),
        "its engine needs a GPU",
    ),
    "a package that requirements.txt lacks": "it depends on what the server's Python holds",
}
Name = Literal[
    "refused", "crashes", "hangs", "fails requests", "answers wrongly", "serves", "not judged"
]


@dataclass(frozen=True)
class Verdict:
    """What the server made of a repository, and its own words."""

    verdict: Name
    says: str

    def as_dict(self) -> dict[str, str]:
        """Returns it for JSON."""
        return asdict(self)


def ask_words(client: GrpcClient) -> Mapping[str, Array]:
    """Scores two texts."""
    return client.infer("words", {"TEXT": np.array([["ab"], ["日本"]])})


def ask_encoder(client: GrpcClient) -> Mapping[str, Array]:
    """Asks for the word of one text."""
    return client.infer("encoder", {"TEXT": np.array([["ab"]])})


def ask_counter(client: GrpcClient) -> Mapping[str, Array]:
    """Asks what comes after two words, in one response."""
    answers = list(client.stream_infer("counter", {"text_input": np.array(["one two"])}))
    return answers[0] if len(answers) == 1 else {}


def ask_ranker(client: GrpcClient) -> Mapping[str, Array]:
    """Asks what comes after a text, in rows of two lengths."""
    return client.infer("ranker", {"text_input": np.array([["one two"], ["four"]])})


def ask_story(client: GrpcClient) -> Mapping[str, Array]:
    """Asks for the capitals of one text, which come in one response."""
    answers = list(client.stream_infer("story", {"text_input": np.array(["ab"])}))
    return answers[0] if len(answers) == 1 else {}


# Of logits 4, 2 and six of 0.
LOG_PROBABILITIES = np.tile(
    np.array([4, 2], np.float32) - np.log(np.exp([4.0, 2.0]).sum() + 6).astype(np.float32), (2, 1)
)


@dataclass(frozen=True)
class Question:
    """A request that a good repository answers, and its answer."""

    ask: Callable[[GrpcClient], Mapping[str, Array]]
    answer: Mapping[str, Array]


QUESTIONS = {
    "words": Question(
        ask_words, {"SCORES": np.array([[195, 98, 2], [776, 230, 4]], dtype=np.float32)}
    ),
    "encoder": Question(
        ask_encoder,
        {"WORD": np.array([[b"word 4"]], dtype=object), "SCORE": np.array([[11]], np.float32)},
    ),
    "counter": Question(
        ask_counter,
        {
            "text_output": np.array([b"three four five"], dtype=object),
            "finish_reason": np.array([b"length"], dtype=object),
            "num_input_tokens": np.array([2], np.uint32),
            "num_output_tokens": np.array([3], np.uint32),
        },
    ),
    "ranker": Question(
        ask_ranker,
        {
            "text_output": np.array([[b"three"], [b"five"]], dtype=object),
            "tokens": np.array([[b"three", b"four"], [b"five", b"six"]], dtype=object),
            "token_ids": np.array([[3, 4], [5, 6]]),
            "logprobs": LOG_PROBABILITIES,
        },
    ),
    "story": Question(ask_story, {"text_output": np.array([b"AB"], dtype=object)}),
}


def judge_mistake(mistake: Mistake, folder: Path, environment: ModelEnvironment) -> Verdict:
    """Plants a mistake on its good repository and starts the server over it.

    Args:
        mistake: What to plant.
        folder: Empty; the repository and the server's log go there.
        environment: Of the models: onnxruntime beside numpy.
    """
    good, repository = plant_beside_good(mistake, folder)
    if mistake.name in UNTOLD:
        return Verdict("not judged", UNTOLD[mistake.name])
    if read_models(good) == read_models(repository):
        return Verdict("not judged", "the server does not read the file that is wrong")
    return judge_repository(repository, mistake.base, environment)


def judge_repository(repository: Path, base: str, environment: ModelEnvironment) -> Verdict:
    """Starts the server over a repository and, where all of it loads, asks it something."""
    options = ServerOptions(
        backends={"onnxruntime": find_backend("onnxruntime")},
        arguments=LENIENT,
        ready_timeout_s=LOAD_TIMEOUT_S,
    )
    log = repository.parent / "server.log"
    try:
        with TritonServer(repository, environment, log, options) as server:
            verdict = _judge_running(server, base)
    except InputError as error:
        verdict = Verdict(_name_end(error.message), error.message)
    text = " ".join(verdict.says.replace(str(repository), "REPOSITORY").split())
    return Verdict(verdict.verdict, PLACES.sub("", text)[:MAX_CHARACTERS])


def _name_end(message: str) -> Name:
    if "was not ready within" in message:
        return "hangs"
    return "crashes" if "it ended with status -" in message else "refused"


def _judge_running(server: TritonServer, base: str) -> Verdict:
    reasons = _list_refusals(server)
    if reasons:
        text = "; ".join(reasons)
        return Verdict("not judged" if NO_BACKEND.search(text) else "refused", text)
    question = QUESTIONS[base]
    with GrpcClient(server.grpc_address, ANSWER_TIMEOUT_S) as client:
        try:
            answer = question.ask(client)
        except RequestFailed as error:
            late = error.status == "DEADLINE_EXCEEDED"
            return Verdict("hangs" if late else "fails requests", error.message)
        except ValueError as error:  # of numpy, where bytes and shape do not match
            return Verdict("answers wrongly", f"status 200 with an output beyond reading: {error}")
    if _is_same(answer, question.answer):
        return Verdict("serves", "the answer of the good repository")
    return Verdict("answers wrongly", f"status 200 with {_describe(answer)}")


def _list_refusals(server: TritonServer) -> list[str]:
    """Returns the reasons of models that did not load, or that the server passed over."""
    listed = TritonClient.of(server).list_models()
    failed = [model for model in listed if model.get("state") != "READY"]
    reasons = [f"{model['name']}: {model['reason']}" for model in failed if model.get("reason")]
    if reasons:
        return reasons
    folders = {path.name for path in server.repository.iterdir() if path.is_dir()}
    missing = folders - {model["name"] for model in listed if model.get("state") == "READY"}
    if not missing:
        return []
    errors = server.read_errors()
    told = [text for text in errors if not any(noise in text for noise in NOISE)]
    return told or [f"{', '.join(sorted(missing))}: not loaded, without a reason"]


def _is_same(answer: Mapping[str, Array], wanted: Mapping[str, Array]) -> bool:
    return answer.keys() == wanted.keys() and all(
        answer[name] is not None
        and answer[name].dtype == array.dtype
        and _is_equal(answer[name], array)
        for name, array in wanted.items()
    )


def _is_equal(answer: Array, wanted: Array) -> bool:
    """Compares values; floats as far as the order of their sums is open."""
    if answer.dtype.kind == "f":
        return answer.shape == wanted.shape and np.allclose(answer, wanted, rtol=1e-6, atol=1e-6)
    return np.array_equal(answer, wanted)


def _describe(answer: Mapping[str, Array]) -> str:
    parts = [
        f"{name} empty" if array is None else f"{name} {array.dtype} {list(array.shape)}"
        for name, array in answer.items()
    ]
    return ", ".join(parts) or "no outputs"
