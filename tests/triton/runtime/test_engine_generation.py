"""Generation over an engine: memory, GPU, limits; NVIDIA's driver and modules are stood in for."""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmopt.artifacts.optimization_profile import AxisRange, OptimizationProfile
from llmopt.engine import cuda_driver
from llmopt.triton.generate_model import GenerateSettings, write_generate_model
from tests.engine.fake_driver import FakeDriver, install_driver, needs_compiler
from tests.triton import fake_python_backend, fake_tensorrt
from tests.triton.fake_python_backend import Request, Sender, TritonError
from tests.triton.good_generate import WORDS, describe_decoder, write_tokenizer

pytestmark = needs_compiler
SIX = WORDS.index("six")
PROFILES = {
    "prefill": {"batch": (1, 4), "sequence": (1, 8), "past_sequence": (0, 0)},
    "decode": {"batch": (1, 4), "sequence": (1, 1), "past_sequence": (1, 15)},
}
PACKAGE = "served_engine"  # the version folder, which Triton imports as one


@dataclass
class ServedEngine:
    """A repository's model over an engine, as Triton's Python backend loads it."""

    folder: Path
    driver: FakeDriver
    model: Any = None

    def load(self, gpu: int = 0, refused_token: int = -1, run_s: float = 0.005) -> None:
        engine = {
            "profiles": [*PROFILES.values()],
            "refused_token": refused_token,
            "run_s": run_s,
        }
        (self.folder / "model.engine").write_text(json.dumps(engine), encoding="utf-8")
        fake_tensorrt.RUNS.clear()
        self.model = importlib.import_module(f"{PACKAGE}.model").TritonPythonModel()
        self.model.initialize({"model_instance_kind": "GPU", "model_instance_device_id": str(gpu)})

    def ask(self, *texts: str, max_tokens: int = 4) -> list[Sender]:
        given = json.dumps({"max_tokens": max_tokens, "ignore_eos": True})
        requests = [Request({"text_input": text.encode()}, given) for text in texts]
        self.model.execute(requests)
        return [request.sender for request in requests]

    def unload(self) -> None:
        self.model.finalize()


def expect(text: str, num_tokens: int) -> str:
    """Continues a text as the engine does: each word is the sum of all before."""
    tokens = [WORDS.index(word) for word in text.split()]
    for _ in range(num_tokens):
        tokens.append(sum(tokens) % len(WORDS))
    return " ".join(WORDS[token] for token in tokens[-num_tokens:])


def write_engine_model(folder: Path) -> None:
    profiles = tuple(
        OptimizationProfile(
            name=name,
            axes={a: AxisRange(min=low, opt=low, max=high) for a, (low, high) in sizes.items()},
        )
        for name, sizes in PROFILES.items()
    )
    settings = GenerateSettings(
        model=describe_decoder(), model_file="model.engine", decoder="tensorrt",
        profiles=profiles, max_running=4, max_waiting=64, default_max_tokens=4,
    )  # fmt: skip
    version = folder / PACKAGE
    version.mkdir()
    write_tokenizer(folder / "tokenizer")
    write_generate_model(version, settings, folder / "tokenizer", Path(cuda_driver.__file__))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedEngine]:
    driver = install_driver(tmp_path / "driver", monkeypatch, "NVIDIA L4", "8.9")
    monkeypatch.setenv("FAKE_GPU_COUNT", "2")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake_python_backend)
    monkeypatch.syspath_prepend(tmp_path)
    write_engine_model(tmp_path)
    copied = importlib.import_module(f"{PACKAGE}.cuda_driver")
    monkeypatch.setattr(copied, "LIBRARY", driver.path)
    yield ServedEngine(tmp_path / PACKAGE, driver)
    for name in [each for each in sys.modules if each.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def change_settings(served: ServedEngine, **changes: Any) -> None:
    path = served.folder / "generation.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, **changes}), encoding="utf-8")


def wait_for_runs(number: int) -> None:
    deadline = time.monotonic() + 30
    while len(fake_tensorrt.RUNS) < number and time.monotonic() < deadline:
        time.sleep(0.01)


def test_answers_are_the_engine_s_and_leave_no_memory_behind(served: ServedEngine) -> None:
    served.load()
    texts = ["one", "one two three", "five", "two two", "three one one one", "seven one"]
    long, short = served.ask(*texts, max_tokens=3), served.ask(*texts, max_tokens=1)
    assert [each.wait() for each in long] == [expect(text, 3) for text in texts]
    assert [each.wait() for each in short] == [expect(text, 1) for text in texts]
    (gone,) = served.ask("one one one", max_tokens=12)
    gone.cancelled = True
    gone.wait()
    served.unload()
    assert max(rows for _, rows, _ in fake_tensorrt.RUNS) > 1
    assert served.driver.count_allocated() == 0


def test_a_prompt_that_the_engine_refuses_fails_alone_and_frees_its_memory(
    served: ServedEngine,
) -> None:
    served.load(refused_token=SIX)
    texts = ["one", "two", "six", "five two"]  # the last three wait while "one" is run
    answers = [each.wait() for each in served.ask(*texts, max_tokens=2)]
    served.unload()
    assert max(rows for profile, rows, _ in fake_tensorrt.RUNS if profile == 0) > 1
    refused = answers.pop(2)
    assert isinstance(refused, TritonError)
    assert refused.text == "the model failed: the engine refused the run"
    assert answers == [expect(text, 2) for text in ("one", "two", "five two")]
    assert served.driver.count_allocated() == 0


def test_a_step_that_fails_frees_its_memory(served: ServedEngine) -> None:
    served.load(refused_token=SIX)
    (failed,) = served.ask("three three")  # whose answer is "six"
    answer = failed.wait()
    assert isinstance(answer, TritonError)
    assert answer.text == "the model failed: the engine refused the run"
    (good,) = served.ask("two two")
    assert good.wait() == expect("two two", 4)
    served.unload()
    assert served.driver.count_allocated() == 0


def test_a_sender_that_can_not_be_asked_leaves_its_row_and_its_memory(served: ServedEngine) -> None:
    served.load(run_s=0.03)
    (broken,) = served.ask("one", max_tokens=15)
    wait_for_runs(4)  # two of the warm-up, the prompt, a token
    broken.is_broken = True
    answer = broken.wait()
    assert isinstance(answer, TritonError)
    assert "the request was cancelled" in answer.text
    served.unload()
    assert served.driver.count_allocated() == 0


@pytest.mark.parametrize("most", range(9))
def test_a_gpu_that_is_full_frees_what_it_gave(
    served: ServedEngine, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.load()
    served.ask("one", max_tokens=1)[0].wait()
    monkeypatch.setenv("FAKE_GPU_ALLOCATIONS", str(most))
    failed = [each.wait() for each in served.ask("one", "two")]
    monkeypatch.delenv("FAKE_GPU_ALLOCATIONS")
    (good,) = served.ask("two two")
    assert good.wait() == expect("two two", 4)
    served.unload()
    assert all(isinstance(each, TritonError) for each in failed) == (most < 8)
    assert served.driver.count_allocated() == 0


@pytest.mark.parametrize("gpu", [0, 1])
def test_an_instance_runs_on_its_gpu(served: ServedEngine, gpu: int) -> None:
    served.load(gpu)
    served.ask("one")[0].wait()
    served.unload()
    assert served.driver.find_opened() == gpu


@pytest.mark.parametrize(("longest", "num_tokens"), [(8, 4), (2, 2)])
def test_loading_runs_a_prompt_and_a_token_that_the_profiles_hold(
    served: ServedEngine, longest: int, num_tokens: int
) -> None:
    change_settings(served, max_prompt_tokens=longest)
    served.load()
    wait_for_runs(2)
    served.unload()
    prompt, token = fake_tensorrt.RUNS
    assert (prompt, token) == ((0, 1, num_tokens), (1, 1, 1))
    assert served.driver.count_allocated() == 0


def test_loading_runs_nothing_unless_it_is_to_warm_up(served: ServedEngine) -> None:
    change_settings(served, warm_up=False)
    served.load()
    served.ask("one two", max_tokens=1)[0].wait()
    served.unload()
    assert fake_tensorrt.RUNS == [(0, 1, 2)]


def test_a_prompt_beyond_the_prefill_profile_is_refused(served: ServedEngine) -> None:
    served.load()
    longest, longer = served.ask("one " * 8, "one " * 9, max_tokens=7)
    refused = longer.wait()
    assert isinstance(refused, TritonError)
    assert refused.code == TritonError.INVALID_ARG
    assert "the prompt has 9 tokens; at most 8, which the model runs at once" in refused.text
    assert longest.wait() == expect("one " * 8, 7)
    served.unload()
