from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from llmopt.artifacts.progress import SilentProgress
from llmopt.checkpoint.activation_store import ActivationStore
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.streamed_model import StreamedModel
from llmopt.errors import NumericalError
from llmopt.evaluate import scoring
from llmopt.evaluate.scoring import TokenScores, score_windows
from llmopt.evaluate.windows import Window, cut_windows
from tests.quant.pipeline import SMALL_VOCAB, make_small_model

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTHS = (2, 50, 17, 3, 33, 64, 5, 29)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model."""
    return make_small_model(tmp_path_factory.mktemp("scoring") / "model")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random model of the same vocabulary but another family."""
    return make_small_model(tmp_path_factory.mktemp("scoring") / "other", "qwen2", seed=1)


def stream(folder: Path) -> StreamedModel:
    """Opens a model as evaluation does."""
    return StreamedModel(Checkpoint.open(folder), torch.device("cpu"), torch.float32)


def make_documents(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    """Returns documents of random tokens."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, SMALL_VOCAB, length).tolist() for length in lengths]


def cut(documents: list[list[int]], max_length: int = 24, stride: int = 10) -> list[Window]:
    """Cuts all documents."""
    return [
        window
        for index, ids in enumerate(documents)
        for window in cut_windows(index, ids, max_length, stride)
    ]


def score(windows: list[Window], candidate: Path, baseline: Path | None = None) -> TokenScores:
    """Scores windows with fresh models, all streams in memory."""
    (scores,) = score_all(windows, [candidate], baseline)
    return scores


def score_all(
    windows: list[Window],
    candidates: list[Path],
    baseline: Path | None = None,
    streams: ActivationStore | None = None,
) -> list[TokenScores]:
    """Scores windows under several candidates with fresh models."""
    return score_windows(
        windows,
        [stream(folder) for folder in candidates],
        None if baseline is None else stream(baseline),
        streams or ActivationStore(Path("unused"), 10**9, torch.device("cpu")),
        SilentProgress(),
    )


def assert_same(one: TokenScores, other: TokenScores) -> None:
    """Every score is the same to the last bit."""
    for name in ("document", "nll", "baseline_nll", "kl", "agrees"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def sum_by_document(scores: TokenScores, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adds the values of each document's tokens up."""
    return np.bincount(scores.document, weights=values, minlength=len(LENGTHS))


def score_with_transformers(
    folder: Path, ids: list[int], max_length: int, stride: int
) -> tuple[float, int]:
    """The strided perplexity loop of transformers' documentation; returns nll sum and tokens."""
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        target_length = end - previous_end
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, :-target_length] = -100
        with torch.inference_mode():
            loss = reference(inputs, labels=labels).loss
        scored = int((labels[:, 1:] != -100).sum())
        total, count, previous_end = total + float(loss) * scored, count + scored, end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize(("max_length", "stride"), [(24, 10), (24, 23), (128, 64)])
def test_nll_is_what_transformers_computes(model: Path, max_length: int, stride: int) -> None:
    documents = make_documents()
    scores = score(cut(documents, max_length, stride), model)
    found = sum_by_document(scores, scores.nll)
    for index, ids in enumerate(documents):
        total, count = score_with_transformers(model, ids, max_length, stride)
        assert int((scores.document == index).sum()) == count == len(ids) - 1
        assert found[index] == pytest.approx(total, rel=1e-5)


def test_model_against_itself_is_no_distance(model: Path) -> None:
    scores = score(cut(make_documents()), model, model)
    assert float(np.abs(scores.kl).max()) == 0
    assert bool(scores.agrees.all())
    np.testing.assert_array_equal(scores.nll, scores.baseline_nll)


def test_distance_is_the_sum_over_the_vocabulary(model: Path, other: Path) -> None:
    documents = make_documents((20, 9))
    scores = score(cut(documents, 64, 32), candidate=other, baseline=model)
    expected_kl, expected_agreement, nll, baseline_nll = [], [], [], []
    for ids in documents:
        p, q = (
            torch.log_softmax(
                AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(
                    torch.tensor([ids])
                ).logits[0, :-1].double(), -1
            ).detach()
            for folder in (model, other)
        )  # fmt: skip
        expected_kl.append(float((p.exp() * (p - q)).sum()))
        expected_agreement.append(int((p.argmax(-1) == q.argmax(-1)).sum()))
        targets = torch.tensor(ids[1:])[:, None]
        nll.append(-float(q.gather(1, targets).sum()))
        baseline_nll.append(-float(p.gather(1, targets).sum()))
    assert sum_by_document(scores, scores.kl)[:2] == pytest.approx(expected_kl, rel=1e-4)
    agreement = sum_by_document(scores, scores.agrees.astype(float))[:2]
    assert agreement.tolist() == expected_agreement
    assert sum_by_document(scores, scores.nll)[:2] == pytest.approx(nll, rel=1e-5)
    assert sum_by_document(scores, scores.baseline_nll)[:2] == pytest.approx(baseline_nll, rel=1e-5)
    assert float(scores.kl.min()) > 0


def test_batching_does_not_matter(model: Path, other: Path) -> None:
    windows = cut(make_documents())
    together = score(windows, model, other)
    for index in range(len(LENGTHS)):
        alone = score([w for w in windows if w.document == index], model, other)
        chosen = together.document == index
        # Windows of a document keep their order only within one batch, so compare sorted.
        for name in ("nll", "baseline_nll", "kl"):
            found = np.sort(getattr(together, name)[chosen])
            np.testing.assert_allclose(found, np.sort(getattr(alone, name)), atol=1e-5, rtol=1e-5)
        assert together.agrees[chosen].sum() == alone.agrees.sum()


def test_order_of_documents_does_not_matter(model: Path) -> None:
    windows = cut(make_documents())
    forwards, backwards = score(windows, model), score(windows[::-1], model)
    np.testing.assert_allclose(
        sum_by_document(forwards, forwards.nll),
        sum_by_document(backwards, backwards.nll),
        rtol=1e-6,
    )


def test_limits_of_batches_do_not_matter(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = cut(make_documents())
    large = score(windows, model, model)
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 30)
    monkeypatch.setattr(scoring, "HEAD_ROWS", 7)
    small = score(windows, model, model)
    np.testing.assert_allclose(
        sum_by_document(large, large.nll), sum_by_document(small, small.nll), rtol=1e-6
    )
    assert len(small.nll) == len(large.nll) == sum(length - 1 for length in LENGTHS)


def test_logits_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    model = make_small_model(tmp_path, tie_word_embeddings=False)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"].fill_(3e38)
    tensors["lm_head.weight"].fill_(3e38)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(NumericalError, match="logits hold NaN or infinity"):
        score(cut(make_documents()), model)


@pytest.mark.parametrize("budget_bytes", [0, 20_000, 60_000])
def test_spilled_streams_give_the_same_bits(
    model: Path, other: Path, tmp_path: Path, budget_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "BATCH_TOKENS", 60)
    windows = cut(make_documents())
    in_memory = score_all(windows, [other, model], model)
    store = SpillCounter(tmp_path / "spill", budget_bytes, torch.device("cpu"))
    spilled = score_all(windows, [other, model], model, store)
    assert store.most_spilled > 0
    for one, other_scores in zip(in_memory, spilled, strict=True):
        assert_same(one, other_scores)
    assert list((tmp_path / "spill").iterdir()) == []  # nothing is left behind


class SpillCounter(ActivationStore):
    """Remembers how many tensors were on disk at once."""

    most_spilled = 0

    def put(self, key: str, tensor: torch.Tensor) -> None:
        super().put(key, tensor)
        self.most_spilled = max(self.most_spilled, self.num_spilled)


def test_candidates_together_are_scored_as_each_alone(
    model: Path, other: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also one with more blocks than the baseline."""
    deeper = make_small_model(tmp_path_factory.mktemp("deep") / "m", num_hidden_layers=4, seed=3)
    windows = cut(make_documents())
    together = score_all(windows, [other, deeper, model], model)
    for folder, scores in zip([other, deeper, model], together, strict=True):
        assert_same(scores, score(windows, folder, model))
    assert float(np.abs(together[2].kl).max()) == 0
    assert bool(together[2].agrees.all())


class BlockCounter(StreamedModel):
    """Counts how often blocks are read."""

    num_read = 0

    def load_block(self, block: int) -> torch.nn.Module:
        self.num_read += 1
        return super().load_block(block)


def test_the_baseline_is_run_once_for_all_candidates(model: Path, other: Path) -> None:
    baseline = BlockCounter(Checkpoint.open(model), torch.device("cpu"), torch.float32)
    streams = ActivationStore(Path("unused"), 10**9, torch.device("cpu"))
    candidates = [stream(other), stream(model), stream(other)]
    score_windows(cut(make_documents()), candidates, baseline, streams, SilentProgress())
    assert baseline.num_read == baseline.num_blocks == 2


class CountingProgress(SilentProgress):
    """Counts the blocks."""

    total = done = 0

    def start(self, description: str, total: int, completed: int = 0) -> None:  # noqa: ARG002
        self.total, self.done = total, completed

    def advance(self) -> None:
        self.done += 1


def test_progress_counts_the_blocks_of_both_models(model: Path, other: Path) -> None:
    progress = CountingProgress()
    streams = ActivationStore(Path("unused"), 10**9, torch.device("cpu"))
    score_windows(cut(make_documents()), [stream(model)], stream(other), streams, progress)
    assert progress.done == progress.total == 4
