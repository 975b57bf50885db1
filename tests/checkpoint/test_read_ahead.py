from pathlib import Path

import pytest
import torch

from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.checkpoint.read_ahead import ReadAhead
from llmopt.checkpoint.tensor_files import read_tensor
from llmopt.errors import InputError
from tests.quant.pipeline import make_small_model


def test_tensors_come_out_once_and_as_they_are(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_small_model(tmp_path / "model"))
    names = checkpoint.block_tensor_names(1)
    ahead = ReadAhead(torch.device("cpu"))
    ahead.start({name: checkpoint.tensors[name] for name in names})
    for name in names:
        found = ahead.take(name)
        assert found is not None
        assert torch.equal(found, read_tensor(checkpoint.tensors[name]))
        assert ahead.take(name) is None
    assert ahead.take("model.norm.weight") is None
    ahead.close()


def test_a_file_that_ends_early_is_heard_of_when_the_tensor_is_taken(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_small_model(tmp_path / "model"))
    name = checkpoint.block_tensor_names(1)[-1]
    path = checkpoint.tensors[name].file
    path.write_bytes(path.read_bytes()[: checkpoint.tensors[name].offset + 1])
    ahead = ReadAhead(torch.device("cpu"))
    ahead.start({name: checkpoint.tensors[name]})
    with pytest.raises(InputError, match="too early"):
        ahead.take(name)
