"""A repository against triton.json, which llmopt wrote beside it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.onnx_description import MODEL_NAME
from llmopt.artifacts.triton_description import (
    TRITON_DESCRIPTION_NAME,
    ModelRole,
    RepositoryShape,
    RepositoryTask,
    TritonDescription,
)
from llmopt.triton.checks.report import Fault, Finding
from llmopt.triton.checks.repository import Repository, ServedModel

ROLES: Mapping[RepositoryShape, tuple[ModelRole, ...]] = {
    "generate": ("generate",),
    "ensemble": ("ensemble", "tokenizer", "engine", "postprocessor"),
    "vllm": ("vllm",),
}
TASKS: Mapping[RepositoryShape, tuple[RepositoryTask, ...]] = {
    "generate": ("generate",),
    "ensemble": ("score", "embed", "fill_mask"),
    "vllm": ("generate",),
}


def find_described_faults(repository: Repository) -> Iterator[Finding]:
    """Judges whether the models are those that triton.json describes."""
    description = repository.description
    if description is None:
        return
    yield from _find_shape_faults(description)
    yield from _find_model_faults(repository, description)
    yield from _find_bucket_faults(description)
    yield from _find_setting_faults(repository, description)
    yield from _find_graph_faults(repository, description)


def _fault(field: str, found: str, allowed: str, fix: str) -> Fault:
    return Fault("", TRITON_DESCRIPTION_NAME, field, found, allowed, fix)


def _find_shape_faults(description: TritonDescription) -> Iterator[Fault]:
    """Judges what each shape has: its roles once, its tasks, a model that was exported."""
    shape = description.shape
    counts = Counter(model.role for model in description.models)
    for role in ROLES[shape]:
        if counts[role] != 1:
            yield _fault(
                "models",
                f"names {counts[role]} of role {role}",
                f"shape {shape} has one",
                "make the repository anew",
            )
    if description.task not in TASKS[shape]:
        yield _fault(
            "task",
            f"is {description.task}",
            f"shape {shape} does {', '.join(TASKS[shape])}",
            "make the repository anew",
        )
    if shape != "vllm" and description.model is None:
        yield _fault(
            "model",
            "is null",
            f"shape {shape} describes the exported model that it serves",
            "make the repository anew",
        )


def _find_model_faults(repository: Repository, description: TritonDescription) -> Iterator[Fault]:
    described = {model.name: model for model in description.models}
    folders = {*repository.models, *repository.unread}
    for name in sorted(set(described) - folders):
        yield _fault(
            "models", f'names "{name}"', "the repository's folders are allowed", "put it back"
        )
    for name in sorted(folders - set(described)):
        yield _fault(
            "models",
            f'lacks "{name}"',
            "every folder of the repository is a model to the server",
            "move the folder out of the repository",
        )
    if description.model_name not in described:
        yield _fault(
            "model_name",
            f'is "{description.model_name}"',
            f"one of {', '.join(described)} is allowed",
            "correct it",
        )
    for name in sorted(set(described) & set(repository.models)):
        backend, wanted = repository.models[name].backend, described[name].backend
        if backend != wanted:
            yield repository.models[name].fault(
                "backend",
                f'is "{backend}"',
                f'triton.json describes one of "{wanted}"',
                "make the repository anew for another backend",
            )


def _find_bucket_faults(description: TritonDescription) -> Iterator[Fault]:
    buckets = description.buckets
    if any(low >= high for low, high in pairwise(buckets)) or any(size < 1 for size in buckets):
        yield _fault(
            "buckets", f"is {list(buckets)}", "ascending lengths in tokens are allowed", "sort them"
        )
    model = description.model
    if model is not None and buckets and max(buckets) > model.max_position_embeddings:
        yield _fault(
            "buckets",
            f"holds {max(buckets)}",
            f"the model has {model.max_position_embeddings} positions",
            "lower it",
        )


def _find_setting_faults(repository: Repository, description: TritonDescription) -> Iterator[Fault]:
    """Judges batch size, delay and device, which stand in both."""
    for described in description.models:
        model = repository.models.get(described.name)
        if model is None:
            continue
        role, config = described.role, model.config
        if role == "generate" and config.max_batch_size:
            yield model.fault(
                "max_batch_size",
                f"is {config.max_batch_size}",
                "the model batches by itself and takes requests one by one",
                "write 0",
            )
        if role == "generate" and not config.model_transaction_policy.decoupled:
            yield model.fault(
                "model_transaction_policy.decoupled",
                "is false",
                "streamed answers need a decoupled model",
                "set it to true",
            )
        if role in ("ensemble", "engine") and config.max_batch_size != description.max_batch_size:
            yield model.fault(
                "max_batch_size",
                f"is {config.max_batch_size}",
                f"triton.json says {description.max_batch_size}",
                "make the repository anew for another batch",
            )
        if role in ("tokenizer", "postprocessor"):
            yield from _find_delay_faults(model)
        if role == "engine":
            yield from _find_engine_setting_faults(model, description)


def _find_delay_faults(model: ServedModel) -> Iterator[Fault]:
    delay = model.config.dynamic_batching.max_queue_delay_microseconds
    if delay:
        yield model.fault(
            "dynamic_batching.max_queue_delay_microseconds",
            f"is {delay}",
            "only the engine's model gains by waiting; delays of steps add up",
            "remove it here",
        )


def _find_engine_setting_faults(
    model: ServedModel, description: TritonDescription
) -> Iterator[Fault]:
    batching = model.config.dynamic_batching
    wanted = description.max_queue_delay_us or 0
    if batching.max_queue_delay_microseconds != wanted:
        yield model.fault(
            "dynamic_batching.max_queue_delay_microseconds",
            f"is {batching.max_queue_delay_microseconds}",
            f"triton.json says {wanted}",
            "make the repository anew for another delay",
        )
    kinds = {pb.ModelInstanceGroup.Kind.Name(g.kind) for g in model.config.instance_group}
    other = "KIND_CPU" if description.device == "cuda" else "KIND_GPU"
    if other in kinds:
        yield model.fault(
            "instance_group.kind",
            f"is {other}",
            f"triton.json says device {description.device}",
            "make the repository anew for another device",
        )


def _find_graph_faults(repository: Repository, description: TritonDescription) -> Iterator[Fault]:
    """Judges whether the served graph is the one described."""
    if description.model_sha256 is None or description.engine is not None:
        return
    for path in sorted(repository.folder.glob(f"*/*/{MODEL_NAME}")):
        if digest_file(path) != description.model_sha256:
            yield Fault(
                path.parts[-3],
                path.relative_to(repository.folder).as_posix(),
                "",
                "is another graph than triton.json describes (sha256 differs)",
                f"{description.model_sha256[:12]}… is allowed",
                "make the repository anew from the exported model",
            )
