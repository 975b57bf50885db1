"""A TensorRT engine against its config, by what triton.json keeps of it: no GPU is needed."""

from collections.abc import Iterator
from itertools import product

from tritonclient.grpc import model_config_pb2 as pb

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.optimization_profile import OptimizationProfile
from llmopt.artifacts.tensor_spec import TensorSpec
from llmopt.artifacts.triton_description import EngineFacts, TritonDescription
from llmopt.triton.checks.onnx_signature import compare_names, compare_shape
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.model_config import TRITON_DTYPES


def find_engine_faults(repository: Repository, model: ServedModel) -> Iterator[Finding]:
    """Judges an engine that the tensorrt backend is to serve."""
    description = repository.description
    facts = description.engine if description is not None else None
    if description is None or facts is None or description.model is None:
        yield Unchecked(f"{model.name}: the engine's signature and profiles, without triton.json")
        return
    if facts.backend != "tensorrt":
        yield model.fault(
            "backend",
            'is "tensorrt"',
            "it loads engines of TensorRT; this one is of TensorRT-RTX",
            "build the engine with backend: tensorrt, or serve it by shape: generate",
        )
    yield from _find_digest_faults(model, facts)
    yield from _compare_specs(model, "input", description.model.inputs)
    yield from _compare_specs(model, "output", description.model.outputs)
    yield from _find_profile_faults(model, description, facts)
    yield Unchecked(f"{model.name}: loading it, which needs a GPU and backend tensorrt")


def _find_digest_faults(model: ServedModel, facts: EngineFacts) -> Iterator[Fault]:
    for version, folder in model.served_versions.items():
        path = folder / model.model_file
        if path.is_file() and digest_file(path) != facts.sha256:
            yield model.fault(
                "",
                "is another engine than triton.json describes (sha256 differs)",
                f"{facts.sha256[:12]}… is allowed",
                "make the repository anew from the engine",
                f"{version}/{model.model_file}",
            )


def _compare_specs(model: ServedModel, side: str, specs: tuple[TensorSpec, ...]) -> Iterator[Fault]:
    tensors = model.config.input if side == "input" else model.config.output
    declared = {tensor.name: tensor for tensor in tensors}
    by_name = {spec.name: spec for spec in specs}
    yield from compare_names(model, side, "engine", list(by_name))
    for name, spec in by_name.items():
        if name not in declared:
            continue
        field = f'{side} "{name}"'
        wanted = TRITON_DTYPES[spec.dtype]
        if pb.DataType.Name(declared[name].data_type) != wanted:
            yield model.fault(
                f"{field}.data_type",
                f"is {pb.DataType.Name(declared[name].data_type)}",
                f"the engine's {wanted} is allowed",
                "correct it",
            )
        yield from compare_shape(model, field, declared[name], list(spec.shape))


def _find_profile_faults(
    model: ServedModel, description: TritonDescription, facts: EngineFacts
) -> Iterator[Fault]:
    chosen, faults = _choose_profiles(model, facts)
    yield from faults
    if faults or not chosen:
        return
    batch = model.config.max_batch_size
    batches = [profile.axes["batch"].max for profile in chosen if "batch" in profile.axes]
    largest = max(batches, default=batch)
    if batch > largest:
        yield model.fault(
            "max_batch_size",
            f"is {batch}",
            f"the engine's profiles take batches up to {largest}",
            f"write {largest}, or build the engine for {batch}",
        )
        return
    for bucket, rows in product(description.buckets, (1, max(batch, 1))):
        sizes = {"batch": rows, "sequence": bucket}
        if not any(profile.contains(sizes) for profile in chosen):
            yield Fault(
                model.name,
                "triton.json",
                "buckets",
                f"holds {bucket}",
                f"no profile of {model.name} takes batch {rows} of {bucket} tokens: "
                + ", ".join(_describe(profile) for profile in chosen),
                "pad to lengths inside the profiles, or build the engine for them",
            )


def _choose_profiles(
    model: ServedModel, facts: EngineFacts
) -> tuple[list[OptimizationProfile], list[Fault]]:
    """Returns the profiles that instances run with, and those named that are not there."""
    named = [name for group in model.config.instance_group for name in group.profile]
    if not named:
        return list(facts.profiles[:1]), []
    count = len(facts.profiles)
    wrong = [name for name in named if not (name.isdecimal() and int(name) < count)]
    if wrong:
        fault = model.fault(
            "instance_group.profile",
            f'holds "{wrong[0]}"',
            f"the engine has {count} profiles: 0 to {count - 1} is allowed",
            "write the profile's index",
        )
        return [], [fault]
    return [facts.profiles[int(name)] for name in named], []


def _describe(profile: OptimizationProfile) -> str:
    return f"{profile.name} ({', '.join(f'{k} {v}' for k, v in profile.axes.items())})"
