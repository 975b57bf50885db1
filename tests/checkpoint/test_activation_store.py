from pathlib import Path

import pytest
import torch

from llmopt.checkpoint.activation_store import ActivationStore

CPU = torch.device("cpu")


@pytest.mark.parametrize("budget_bytes", [0, 100, 10**6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gives_back_what_was_put(tmp_path: Path, dtype: torch.dtype, budget_bytes: int) -> None:
    store = ActivationStore(tmp_path / "spill", budget_bytes, CPU)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"hidden-{index}": torch.randn(3, index + 1, 4, generator=generator).to(dtype)
        for index in range(6)
    }
    for key, tensor in tensors.items():
        store.put(key, tensor)
    for key, tensor in tensors.items():
        assert store.get(key).dtype == dtype
        assert torch.equal(store.get(key), tensor)


def test_keeps_to_its_budget_and_spills_the_rest(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "spill", 250, CPU)
    for index in range(5):
        store.put(f"t-{index}", torch.full((25,), float(index)))  # 100 bytes each
    assert store.num_spilled == 3
    assert len(list((tmp_path / "spill").iterdir())) == 3
    assert [float(store.get(f"t-{index}")[0]) for index in range(5)] == [0, 1, 2, 3, 4]


def test_nothing_is_written_while_all_fits(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "spill", 400, CPU)
    for _ in range(20):  # the older tensor of a key makes room for the newer one
        store.put("a", torch.ones(50))
        store.put("b", torch.ones(50))
    assert store.num_spilled == 0
    assert not (tmp_path / "spill").exists()


@pytest.mark.parametrize("budget_bytes", [0, 10**6])
def test_taking_forgets_and_frees(tmp_path: Path, budget_bytes: int) -> None:
    store = ActivationStore(tmp_path / "spill", budget_bytes, CPU)
    store.put("a", torch.ones(50))
    assert torch.equal(store.take("a"), torch.ones(50))
    assert store.num_spilled == 0
    assert not (tmp_path / "spill").exists() or not list((tmp_path / "spill").iterdir())
    with pytest.raises(KeyError, match="a"):
        store.get("a")
    store.drop("a")  # what is not there needs no dropping


@pytest.mark.parametrize("budget_bytes", [0, 10**6])
def test_a_key_is_replaced(tmp_path: Path, budget_bytes: int) -> None:
    store = ActivationStore(tmp_path / "spill", budget_bytes, CPU)
    store.put("a", torch.ones(50))
    store.put("a", torch.zeros(7))
    assert torch.equal(store.get("a"), torch.zeros(7))


def test_a_tensor_that_fits_again_comes_back_to_memory(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "spill", 200, CPU)
    store.put("a", torch.ones(50))
    store.put("b", torch.ones(50))
    assert store.num_spilled == 1
    store.drop("a")
    store.put("b", torch.ones(50))
    assert store.num_spilled == 0
    assert list((tmp_path / "spill").iterdir()) == []


@pytest.mark.parametrize("budget_bytes", [0, 10**6])
def test_a_narrower_dtype_at_rest_rounds_and_comes_back_as_it_came(
    tmp_path: Path, budget_bytes: int
) -> None:
    store = ActivationStore(tmp_path / "spill", budget_bytes, CPU, torch.bfloat16)
    tensor = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    store.put("a", tensor)
    store.put("b", tensor.bfloat16())
    assert torch.equal(store.get_stored("a"), tensor.bfloat16())
    assert torch.equal(store.get("a"), tensor.bfloat16().float())
    assert torch.equal(store.take("b"), tensor.bfloat16())


def test_the_budget_counts_what_is_kept(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "spill", 100, CPU, torch.bfloat16)
    store.put("a", torch.ones(50))  # 100 bytes at rest
    assert store.num_spilled == 0
    store.put("b", torch.ones(1))
    assert store.num_spilled == 1
