"""What flows through an ensemble: dtype and shape where tensors meet, and how many bytes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.files import format_bytes
from llmopt.triton.checks.config_fields import ITEM_BYTES, VARIABLE
from llmopt.triton.checks.ensembles import step_field
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel

# Between steps tensors go through shared memory: 311 MB of logits took 0.55 s there (measured).
MAX_STEP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Meeting:
    """A tensor of an ensemble, as one model declares it.

    Attributes:
        where: Names the declaration, for people.
        tensor: The tensor's name in the ensemble.
        data_type: Triton's enum.
        dims: Without the batch axis.
        is_batched: Whether the model has one, in front of them.
    """

    where: str
    tensor: str
    data_type: int
    dims: tuple[int, ...]
    is_batched: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The dims, with the batch axis where there is one."""
        return (VARIABLE, *self.dims) if self.is_batched else self.dims


def find_meeting_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges whether all that declare a tensor agree on its dtype and shape."""
    first: dict[str, Meeting] = {}
    # An ensemble without batch axis gives steps that have one a batch of 1.
    is_single = model.config.max_batch_size == 0
    for meeting in _list_meetings(repository, model):
        other = first.setdefault(meeting.tensor, meeting)
        if meeting.data_type != other.data_type:
            yield model.fault(
                f'ensemble_scheduling, tensor "{meeting.tensor}"',
                f"is {pb.DataType.Name(meeting.data_type)} in {meeting.where} and "
                f"{pb.DataType.Name(other.data_type)} in {other.where}",
                "one data type is allowed",
                "correct one of the two configs",
            )
        elif not (
            _fit(meeting.shape, other.shape) or (is_single and _fit(meeting.dims, other.dims))
        ):
            yield model.fault(
                f'ensemble_scheduling, tensor "{meeting.tensor}"',
                f"is {list(meeting.shape)} in {meeting.where} and {list(other.shape)} in "
                f"{other.where} (batch axis included)",
                "one shape is allowed, where -1 takes any size",
                "correct one of the two configs",
            )


def _fit(dims: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(dims) == len(other) and all(
        VARIABLE in pair or pair[0] == pair[1] for pair in zip(dims, other, strict=True)
    )


def _list_meetings(repository: Repository, model: ServedModel) -> Iterator[Meeting]:
    for side, tensors in (("input", model.config.input), ("output", model.config.output)):
        for spec in tensors:
            yield _meet(model, f'{model.name}\'s {side} "{spec.name}"', spec.name, spec)
    for step in model.config.ensemble_scheduling.step:
        used = repository.models.get(step.model_name)
        if used is None:
            continue
        inputs = {spec.name: spec for spec in used.config.input}
        outputs = {spec.name: spec for spec in used.config.output}
        for name, tensor in sorted(step.input_map.items()):
            if name in inputs:
                yield _meet(used, f'{used.name}\'s input "{name}"', tensor, inputs[name])
        for name, tensor in sorted(step.output_map.items()):
            if name in outputs:
                yield _meet(used, f'{used.name}\'s output "{name}"', tensor, outputs[name])


def _meet(
    model: ServedModel, where: str, tensor: str, spec: pb.ModelInput | pb.ModelOutput
) -> Meeting:
    is_batched = model.config.max_batch_size > 0
    return Meeting(where, tensor, spec.data_type, tuple(spec.dims), is_batched)


def find_size_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges how many bytes a full batch takes from one step to the next."""
    description = repository.description
    longest = max(description.buckets, default=0) if description is not None else 0
    if not longest and description is not None and description.model is not None:
        longest = description.model.max_position_embeddings
    batch = max(model.config.max_batch_size, 1)
    for index, step in enumerate(model.config.ensemble_scheduling.step):
        used = repository.models.get(step.model_name)
        for spec in used.config.output if used is not None else ():
            if spec.name not in step.output_map or spec.data_type not in ITEM_BYTES:
                continue
            if VARIABLE in spec.dims and not longest:
                yield Unchecked(f'{model.name}: bytes of "{spec.name}", whose length is open')
                continue
            sizes = [longest if size == VARIABLE else size for size in spec.dims]
            num_bytes = batch * math.prod(sizes) * ITEM_BYTES[spec.data_type]
            yield from _judge_bytes(model, step_field(index, step), spec.name, num_bytes)


def _judge_bytes(model: ServedModel, field: str, name: str, num_bytes: int) -> Iterator[Fault]:
    if num_bytes > MAX_STEP_BYTES:
        yield model.fault(
            f"{field}.output_map",
            f'passes "{name}" of {format_bytes(num_bytes)} at max_batch_size',
            f"{format_bytes(MAX_STEP_BYTES)} are allowed: it goes through memory at every request",
            "choose the tokens inside the model (last position, masked position or top k), or "
            "lower max_batch_size",
        )
