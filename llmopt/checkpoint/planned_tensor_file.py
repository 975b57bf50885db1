"""A safetensors file that is written tensor by tensor, in any order, none of them held.

Offsets are planned from dtypes and shapes alone. A tensor whose length is known only once it is
made (bitsandbytes' state is JSON text) takes its place after all others, and room for the header
is kept in front until then; what stays free of it is spaces, which the format allows.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from torch import Tensor

from llmopt.checkpoint.safetensors_header import ITEM_BYTES, TensorPlan
from llmopt.checkpoint.tensor_files import SAFETENSORS_DTYPES, as_bytes, build_header

MAX_LATE_ITEMS = 10**9  # in a tensor whose shape is not known yet: room for its header record


class PlannedTensorFile:
    """Writes a safetensors file by way of a temporary neighbour; a context manager.

    Leaving the context renames the file into place; leaving it by an exception removes it.

    Args:
        path: The file to write.
        plans: Every tensor by name. Wide dtypes come first in the file, so that each lies
            aligned; those without a shape come last.
    """

    def __init__(self, path: Path, plans: Mapping[str, TensorPlan]) -> None:
        late = [name for name, plan in plans.items() if plan.shape is None]
        fixed = [name for name, plan in plans.items() if plan.shape is not None]
        self._path = path
        self._plans = plans
        self._order = sorted(fixed, key=lambda name: -ITEM_BYTES[plans[name].dtype])
        self._shapes = {name: plans[name].shape or () for name in self._order}
        specs = [(name, plans[name].dtype, self._shapes[name]) for name in self._order]
        specs += [(name, plans[name].dtype, (MAX_LATE_ITEMS,)) for name in late]
        self._data_start = len(build_header(specs))
        self._offsets: dict[str, int] = {}
        self._end = self._data_start
        for name in self._order:
            self._offsets[name] = self._end
            self._end += plans[name].num_bytes
        self._missing = set(plans)
        self._temporary = path.with_name(path.name + ".tmp")
        self._file = self._temporary.open("wb")

    def __enter__(self) -> "PlannedTensorFile":
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Writes one tensor.

        Raises:
            ValueError: It is not the tensor that was planned.
        """
        data = tensor.detach().cpu().contiguous()
        plan, dtype, shape = self._plans[name], SAFETENSORS_DTYPES[data.dtype], tuple(data.shape)
        if plan.dtype != dtype or plan.shape not in (None, shape):
            raise ValueError(f"{name} is {dtype} {list(shape)}, planned was {plan}")
        if plan.shape is None:
            self._order.append(name)
            self._offsets[name] = self._end
            self._shapes[name] = shape
            self._end += data.nbytes
        self.write_bytes(name, [as_bytes(data)])

    def write_bytes(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Writes one tensor from its bytes in pieces, as they come."""
        self._file.seek(self._offsets[name])
        for chunk in chunks:
            self._file.write(chunk)
        self._missing.remove(name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._write_header()
            if error is None:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)  # on a full disk it only takes more room

    def _write_header(self) -> None:
        if self._missing:
            raise ValueError(f"{self._path.name}: {min(self._missing)} was not written")
        specs = [(name, self._plans[name].dtype, self._shapes[name]) for name in self._order]
        self._file.seek(0)
        self._file.write(build_header(specs, self._data_start))
