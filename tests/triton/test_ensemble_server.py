"""Ensembles in the real server: answers equal PyTorch's, batches merge, bad requests fail alone."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from llmopt.artifacts.files import list_files
from llmopt.artifacts.triton_description import TritonDescription
from llmopt.errors import RequestFailed
from llmopt.steps.ensemble_answer import answer_directly
from llmopt.triton.client import TritonClient
from llmopt.triton.cpu_configs import make_cpu_config
from llmopt.triton.ensemble_repository import EnsemblePlan
from llmopt.triton.grpc_client import GrpcClient
from llmopt.triton.model_environment import ModelEnvironment, make_environment
from llmopt.triton.server import ServerOptions, TritonServer
from llmopt.triton.server_distribution import ServerDistribution
from tests.models import TINY_MODEL
from tests.triton.ensembles import BACKEND, BUCKETS, MAX_BATCH_SIZE, make_plan, write

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ("前身頃に袖を", "a", "寸法は", "検品する前に、ボタンと衿を縫う。前身頃の")
MASKED = ("前身頃に[MASK]を縫う。", "[MASK]", "袖[MASK]衿[MASK]", "検品する前身頃い[MASK]。")
TASKS = ("score", "fill_mask", "embed")
# Ensemble → its task, weights and dtype; the first three are named as their tasks.
ENSEMBLES = {
    **{task: (task, "plain", "float32") for task in TASKS},
    "int8": ("fill_mask", "int8_dynamic", "float32"),
    "half": ("embed", "plain", "float16"),
}
# Long enough that requests which are sent together meet, however slow the machine.
MERGING_DELAY_US = 300_000
CACHE_BYTES = 1_000_000
Array = NDArray[Any]


@dataclass(frozen=True)
class Served:
    """A server over all ensembles."""

    server: TritonServer
    repository: Path
    descriptions: dict[str, TritonDescription]
    plans: dict[str, EnsemblePlan]
    first_statistics: dict[str, Any]

    @property
    def client(self) -> TritonClient:
        return TritonClient.of(self.server)

    def infer(self, task: str, texts: Sequence[str | bytes]) -> dict[str, Array]:
        """Sends one request of several rows over gRPC."""
        raw = [text.encode() if isinstance(text, str) else text for text in texts]
        with GrpcClient(self.server.grpc_address) as client:
            return client.infer(task, {"text_input": np.array(raw, object)[:, None]})


@pytest.fixture(scope="module")
def environment(
    server_distribution: ServerDistribution,
) -> ModelEnvironment:
    """What requirements.txt of all tasks names, and onnxruntime for the backend's stand-in."""
    del server_distribution
    return make_environment(
        ("onnxruntime", "tokenizers", "transformers>=4.46", "fugashi", "unidic-lite"), print
    )


@pytest.fixture(scope="module")
def served(
    environment: ModelEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    pytest.importorskip("fugashi", reason="fugashi (MeCab) is not installed")
    folder = tmp_path_factory.mktemp("ensembles")
    repository = folder / "repository"
    plans = {
        name: make_plan(
            folder / name,
            task,
            weights=weights,
            dtype=dtype,
            max_queue_delay_us=MERGING_DELAY_US if name == "fill_mask" else 1000,
            response_cache=name == "embed",
        )
        for name, (task, weights, dtype) in ENSEMBLES.items()
    }
    descriptions = {name: write(repository, plan, name) for name, plan in plans.items()}
    options = ServerOptions(
        backends={"onnxruntime": BACKEND},
        arguments=(f"--cache-config=local,size={CACHE_BYTES}",),
    )
    with TritonServer(repository, environment, folder / "log", options) as server:
        client = TritonClient.of(server)
        yield Served(
            server,
            repository,
            descriptions,
            plans,
            {task: client.read_statistics(f"{task}_engine") for task in TASKS},
        )


def rank(logits_V: torch.Tensor) -> tuple[list[int], list[float]]:
    best = torch.log_softmax(logits_V.float(), -1).topk(5)
    return best.indices.tolist(), best.values.tolist()


@pytest.fixture(scope="module")
def rank_next() -> Callable[[str], tuple[list[int], list[float]]]:
    """PyTorch's likeliest tokens after a text."""
    model = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)

    def run(text: str) -> tuple[list[int], list[float]]:
        with torch.inference_mode():
            ids = tokenizer(text, return_tensors="pt").input_ids
            return rank(model(input_ids=ids).logits[0, -1])

    return run


def run_bert(folder: Path, loader: Any, text: str) -> tuple[torch.Tensor, list[int]]:
    """Returns a BERT's first output for one text, [T, W], and the text's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = loader.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        ids = tokenizer(text, return_tensors="pt").input_ids
        return model(input_ids=ids)[0][0], ids[0].tolist()


def test_scores_are_pytorchs_in_any_mixture_of_lengths(
    served: Served, rank_next: Callable[[str], tuple[list[int], list[float]]]
) -> None:
    together = served.infer("score", TEXTS)
    for row, text in enumerate(TEXTS):
        ids, logprobs = rank_next(text)
        alone = served.infer("score", [text])
        assert together["token_ids"][row].tolist() == alone["token_ids"][0].tolist() == ids
        np.testing.assert_allclose(together["logprobs"][row], logprobs, atol=1e-4)
        np.testing.assert_allclose(alone["logprobs"][0], logprobs, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL)
    for ids, tokens, best in zip(
        together["token_ids"], together["tokens"], together["text_output"], strict=True
    ):
        assert [token.decode() for token in tokens] == [tokenizer.decode([id_]) for id_ in ids]
        assert best[0] == tokens[0]


def test_masks_are_filled_as_pytorch_fills_the_first_one(served: Served) -> None:
    found = served.infer("fill_mask", MASKED)
    folder = served.plans["fill_mask"].tokenizer
    mask_id = AutoTokenizer.from_pretrained(folder).mask_token_id
    for row, text in enumerate(MASKED):
        logits, tokens = run_bert(folder, AutoModelForMaskedLM, text)
        ids, logprobs = rank(logits[tokens.index(mask_id)])
        assert found["token_ids"][row].tolist() == ids
        np.testing.assert_allclose(found["logprobs"][row], logprobs, atol=1e-4)


def test_embeddings_are_pytorchs_mean_over_a_rows_own_tokens(served: Served) -> None:
    texts = ("前身頃に袖を縫う。", "", "検品する。" * 3)
    found = served.infer("embed", texts)["embedding"]
    for row, text in enumerate(texts):
        hidden, _ = run_bert(served.plans["embed"].tokenizer, AutoModel, text)
        mean = hidden.mean(0)
        np.testing.assert_allclose(found[row], (mean / mean.norm()).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_answers_are_those_of_the_export_without_a_server(served: Served, name: str) -> None:
    prompt = served.descriptions[name].prompt
    found, expected = served.infer(name, [prompt]), answer_directly(served.plans[name], prompt)
    assert found.keys() == expected.keys()
    for output, array in expected.items():
        assert found[output].dtype == array.dtype, output
        if array.dtype == np.float32:
            np.testing.assert_allclose(found[output], array, atol=1e-4)
        else:
            assert found[output].tolist() == array.tolist(), output


def test_int8_and_float16_are_near_pytorch(served: Served) -> None:
    embeddings = [
        served.infer(name, ["前身頃に袖を縫う。"])["embedding"] for name in ("half", "embed")
    ]
    assert 0 < np.abs(embeddings[0] - embeddings[1]).max() < 0.01
    best = [served.infer(name, MASKED)["logprobs"] for name in ("int8", "fill_mask")]
    assert 1e-4 < np.abs(best[0] - best[1]).max() < 0.3


@pytest.mark.parametrize("task", TASKS)
def test_http_and_grpc_give_the_same_answer_to_the_prompt(served: Served, task: str) -> None:
    prompt = served.descriptions[task].prompt
    over_grpc = served.infer(task, [prompt])
    over_http = served.client.generate(task, {"text_input": prompt})
    for name, array in over_grpc.items():
        values = array[0].tolist()
        if array.dtype == object:
            values = [value.decode() for value in values]
        else:
            values = pytest.approx(values, rel=1e-6)
        given = over_http[name]
        assert (given if isinstance(given, list) else [given]) == values


def test_requests_that_come_together_are_one_batch(served: Served) -> None:
    texts = [f"[MASK]{'袖' * (1 + index % 5)}" for index in range(MAX_BATCH_SIZE)]
    alone = [served.infer("fill_mask", [text]) for text in texts[:5]]
    before = served.client.read_statistics("fill_mask_engine")
    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(pool.map(lambda text: served.infer("fill_mask", [text]), texts))
    after = served.client.read_statistics("fill_mask_engine")
    executions = after["execution_count"] - before["execution_count"]
    assert after["inference_count"] - before["inference_count"] == len(texts)
    assert executions <= len(texts) // 2
    for index, answer in enumerate(answers):
        expected = alone[index % 5]
        np.testing.assert_allclose(answer["logprobs"], expected["logprobs"], atol=1e-4)
        assert answer["token_ids"].tolist() == expected["token_ids"].tolist()


def test_a_text_that_is_no_utf8_fails_alone(served: Served) -> None:
    texts = ["[MASK]を縫う".encode(), b"[MASK]\xff\xfe", "袖[MASK]".encode(), b"\xe8\xa2"]

    def ask(text: bytes) -> dict[str, Array] | RequestFailed:
        try:
            return served.infer("fill_mask", [text])
        except RequestFailed as error:
            return error

    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(pool.map(ask, texts))
    for answer, byte in ((answers[1], "0xff at 6"), (answers[3], "0xe8 at 0")):
        assert isinstance(answer, RequestFailed)
        assert answer.status == "INVALID_ARGUMENT"
        assert f"text_input is no UTF-8 in row 0: byte {byte}" in str(answer)
    for index in (0, 2):
        answer = answers[index]
        assert not isinstance(answer, RequestFailed)
        expected = served.infer("fill_mask", [texts[index]])
        assert answer["token_ids"].tolist() == expected["token_ids"].tolist()


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("fill_mask", "袖を縫う。", r"holds no [MASK] in row 0"),
        ("embed", "袖を" * 20, "tokens in row 0, special ones included; at most 32"),
        ("score", "あ" * 1_000_000, "3000000 bytes in row 0; at most 1024"),
    ],
)
def test_what_can_not_be_answered_is_refused_and_the_server_goes_on(
    served: Served, task: str, text: str, message: str
) -> None:
    with pytest.raises(RequestFailed) as caught:
        served.client.generate(task, {"text_input": text})
    assert caught.value.status == 400
    assert message in str(caught.value)
    assert served.client.generate(task, {"text_input": served.descriptions[task].prompt})


def test_more_rows_than_a_batch_holds_are_refused(served: Served) -> None:
    with pytest.raises(RequestFailed, match="batch-size must be <= 8"):
        served.infer("score", ["a"] * (MAX_BATCH_SIZE + 1))
    assert len(served.infer("score", ["a"] * MAX_BATCH_SIZE)["token_ids"]) == MAX_BATCH_SIZE


@pytest.mark.parametrize("task", TASKS)
def test_loading_ran_a_full_batch_of_every_bucket(served: Served, task: str) -> None:
    statistics = served.first_statistics[task]
    counts = {b["batch_size"]: b["compute_infer"]["count"] for b in statistics["batch_stats"]}
    assert counts == {MAX_BATCH_SIZE: len(BUCKETS)}


def test_equal_requests_are_answered_from_the_cache(served: Served) -> None:
    before = served.client.read_statistics("embed_engine")["inference_stats"]
    first, second = (served.infer("embed", ["衿を検品する。"])["embedding"] for _ in range(2))
    after = served.client.read_statistics("embed_engine")["inference_stats"]
    assert first.tolist() == second.tolist()
    hits = after["cache_hit"]["count"] - before["cache_hit"]["count"]
    assert hits == 1


def test_serving_writes_nothing_into_the_repository(served: Served) -> None:
    served.infer("score", ["a"])
    files = list_files(served.repository)
    assert [
        name for name in files if name.endswith((".pyc", ".lock")) or "__pycache__" in name
    ] == []
    assert "score_engine/1/model.onnx" in files


def test_a_config_for_gpus_runs_on_cpus_by_an_override(
    environment: ModelEnvironment, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    write(repository, make_plan(tmp_path / "plan", "score"), "gpu", device="cuda")
    before = {name: (repository / name).read_bytes() for name in list_files(repository)}
    options = ServerOptions(explicit=True, backends={"onnxruntime": BACKEND})
    with TritonServer(repository, environment, tmp_path / "log", options) as server:
        client = TritonClient.of(server)
        with pytest.raises(RequestFailed, match="GPU"):
            client.load("gpu_engine")
        for name in ("gpu_tokenizer", "gpu_postprocessor"):
            client.load(name)
        client.load("gpu_engine", make_cpu_config(repository / "gpu_engine"))
        client.load("gpu")
        answer = client.generate("gpu", {"text_input": TEXTS[0]})
    assert len(answer["tokens"]) == 5
    assert {name: (repository / name).read_bytes() for name in list_files(repository)} == before
