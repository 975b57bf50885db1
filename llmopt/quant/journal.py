"""What a quantisation has finished, on disk: whole blocks, and the data where they left it.

    block-00004.safetensors   the packed layers of block 4
    hidden-00005.safetensors  the residual stream that block 5 reads, one tensor per batch
    journal.json              how many blocks are done, and the error ledger; written last

A block counts once the journal names it, so a kill at any moment costs one block at most.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from llmopt.artifacts.files import write_text_atomically
from llmopt.artifacts.manifest import LayerError
from llmopt.checkpoint.safetensors_header import TensorEntry, read_header
from llmopt.checkpoint.tensor_files import read_tensor, write_tensors


class Journal:
    """The progress of one quantisation inside its scratch folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / "journal.json"
        self.num_done = 0
        self.errors: list[LayerError] = []
        if self._path.exists():
            state = json.loads(self._path.read_text(encoding="utf-8"))
            self.num_done = int(state["num_done"])
            self.errors = [LayerError.model_validate(row) for row in state["errors"]]

    def record(
        self,
        tensors: dict[str, Tensor],
        errors: Iterable[LayerError],
        hidden: Iterable[Tensor] | None,
    ) -> None:
        """Commits one more block: its packed tensors, its errors, the data after it."""
        write_tensors(self._block_path(self.num_done), tensors)
        if hidden is not None:
            state = {f"{index:05d}": batch for index, batch in enumerate(hidden)}
            write_tensors(self._hidden_path(self.num_done + 1), state)
        self.errors += errors
        self.num_done += 1
        rows = [error.model_dump() for error in self.errors]
        write_text_atomically(self._path, json.dumps({"num_done": self.num_done, "errors": rows}))
        self._hidden_path(self.num_done - 1).unlink(missing_ok=True)

    def read_hidden(self) -> list[Tensor]:
        """Reads the residual stream that the next block takes, one tensor per batch."""
        header = read_header(self._hidden_path(self.num_done))
        return [read_tensor(entry) for _, entry in sorted(header.items())]

    def packed_tensors(self) -> dict[str, TensorEntry]:
        """Returns where the packed tensors of all finished blocks lie."""
        entries: dict[str, TensorEntry] = {}
        for block in range(self.num_done):
            entries |= read_header(self._block_path(block))
        return entries

    def _block_path(self, block: int) -> Path:
        return self._folder / f"block-{block:05d}.safetensors"

    def _hidden_path(self, block: int) -> Path:
        return self._folder / f"hidden-{block:05d}.safetensors"
