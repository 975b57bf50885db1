"""How requests are batched and where instances run: fields that decide a model's schedule."""

from collections.abc import Iterator

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel

OWN_SCHEDULERS = ("vllm", "tensorrtllm")
# Backends that find a batch axis in the model itself, where the config has none.
COMPLETING = ("onnxruntime", "tensorrt")


def find_batching_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges dynamic batching."""
    config = model.config
    if not config.HasField("dynamic_batching"):
        return
    if config.max_batch_size == 0:
        yield model.fault(
            "dynamic_batching",
            "is set",
            "max_batch_size 0 has no batch axis to merge requests along",
            "set max_batch_size, or remove dynamic_batching",
        )
    yield from _find_preferred_faults(model)
    yield from _find_queue_faults(model)


def _find_preferred_faults(model: ServedModel) -> Iterator[Fault]:
    limit = model.config.max_batch_size
    preferred = list(model.config.dynamic_batching.preferred_batch_size)
    if any(not 1 <= size <= max(limit, 1) for size in preferred):
        yield model.fault(
            "dynamic_batching.preferred_batch_size",
            f"is {preferred}",
            f"1 to max_batch_size {limit} is allowed",
            "lower it, or raise max_batch_size",
        )


def _find_queue_faults(model: ServedModel) -> Iterator[Fault]:
    batching = model.config.dynamic_batching
    levels = batching.priority_levels
    default = batching.default_priority_level
    if levels and not 1 <= default <= levels:
        yield model.fault(
            "dynamic_batching.default_priority_level",
            f"is {default}",
            f"1 to priority_levels {levels} is allowed",
            "set it",
        )
    beyond = sorted(key for key in batching.priority_queue_policy if not 1 <= key <= levels)
    if beyond:
        yield model.fault(
            "dynamic_batching.priority_queue_policy",
            f"names level {beyond[0]}",
            f"1 to priority_levels {levels} is allowed",
            "raise priority_levels, or remove the entry",
        )


def find_added_delays(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Notes where a request to an ensemble waits to be batched more than once."""
    names = dict.fromkeys(step.model_name for step in model.config.ensemble_scheduling.step)
    delays = {
        name: repository.models[name].config.dynamic_batching.max_queue_delay_microseconds
        for name in names
        if name in repository.models
    }
    waiting = {name: delay for name, delay in delays.items() if delay}
    if len(waiting) > 1:
        told = ", ".join(f"{name} {delay}" for name, delay in waiting.items())
        yield Unchecked(
            f"{model.name}: whether a request may wait for {sum(waiting.values())} µs in all: "
            f"the delays of its steps ({told}) add up"
        )


def find_instance_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges instance groups."""
    groups = model.config.instance_group
    if groups and model.backend == "ensemble":
        yield model.fault(
            "instance_group",
            "is set",
            "an ensemble has no instances",
            "remove it, and set it in the steps",
        )
        return
    for index, group in enumerate(groups):
        yield from _find_group_faults(model, f"instance_group[{index}]", group)


def _find_group_faults(
    model: ServedModel, field: str, group: pb.ModelInstanceGroup
) -> Iterator[Finding]:
    kind = pb.ModelInstanceGroup.Kind.Name(group.kind)
    if group.count < 1:
        yield model.fault(
            f"{field}.count",
            f"is {group.count}" if group.count else "is not set, or 0",
            "1 or more is allowed (0 is taken for 1 without a word)",
            "write how many run at once",
        )
    if group.gpus and kind in ("KIND_CPU", "KIND_MODEL"):
        yield model.fault(
            f"{field}.gpus",
            f"is {list(group.gpus)} with {kind}",
            "only KIND_GPU and KIND_AUTO take GPUs",
            "remove gpus, or write KIND_GPU",
        )
    if any(gpu < 0 for gpu in group.gpus):
        yield model.fault(
            f"{field}.gpus", f"is {list(group.gpus)}", "0 or more is allowed", "number GPUs from 0"
        )
    if model.backend == "tensorrt" and kind == "KIND_CPU":
        yield model.fault(
            f"{field}.kind", "is KIND_CPU", "engines run on GPUs alone", "write KIND_GPU"
        )
    if kind == "KIND_GPU":
        gpus = f"GPUs {list(group.gpus)}" if group.gpus else "a GPU"
        yield Unchecked(f"{model.name}: whether the server's machine has {gpus}")


def find_server_needs(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges what needs another model setting or an option of the server to have effect."""
    config = model.config
    if model.backend in COMPLETING and config.max_batch_size == 0:
        yield Unchecked(
            f"{model.name}: its max_batch_size, which is 0 or not set: a server that completes "
            "configs (without --disable-auto-complete-config) may set another"
        )
    if config.HasField("sequence_batching"):
        yield Unchecked(f"{model.name}: controls and states of its sequence batching")
    decoupled = config.model_transaction_policy.decoupled
    if config.response_cache.enable:
        if decoupled:
            yield model.fault(
                "response_cache.enable",
                "is true",
                "answers of a decoupled model are not cached",
                "remove it",
            )
        else:
            yield Unchecked(
                f"{model.name}: its response cache, which does nothing unless the server is "
                "started with --cache-config=local,size=BYTES"
            )
    if any(group.HasField("rate_limiter") for group in config.instance_group):
        yield Unchecked(
            f"{model.name}: its rate limiter, which does nothing unless the server is started "
            "with --rate-limit=execution_count"
        )


def find_own_scheduler_faults(_: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges models that schedule by themselves: vLLM and TensorRT-LLM."""
    config = model.config
    if model.backend not in OWN_SCHEDULERS:
        return
    if config.HasField("dynamic_batching") or config.HasField("sequence_batching"):
        yield model.fault(
            str(config.WhichOneof("scheduling_choice")),
            "is set",
            f"backend {model.backend} batches by itself",
            "remove it",
        )
    if model.backend != "vllm":
        return
    if config.max_batch_size:
        yield model.fault(
            "max_batch_size", f"is {config.max_batch_size}", "vllm takes 0", "write 0"
        )
    kinds = {pb.ModelInstanceGroup.Kind.Name(group.kind) for group in config.instance_group}
    if kinds != {"KIND_MODEL"}:
        yield model.fault(
            "instance_group.kind",
            f"is {', '.join(sorted(kinds)) or 'not set'}",
            "vllm places itself by KIND_MODEL",
            "write one group of KIND_MODEL",
        )
    if not config.model_transaction_policy.decoupled:
        yield model.fault(
            "model_transaction_policy.decoupled",
            "is false",
            "streamed answers need a decoupled model",
            "set it to true",
        )
