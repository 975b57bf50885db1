"""All checks of a model repository, by files alone: no server, no GPU, no backend is needed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmopt.triton.checks.config_fields import find_identity_faults, find_tensor_faults
from llmopt.triton.checks.described_models import find_described_faults
from llmopt.triton.checks.engine_signature import find_engine_faults
from llmopt.triton.checks.ensemble_models import find_setting_faults
from llmopt.triton.checks.ensemble_tensors import find_meeting_faults, find_size_faults
from llmopt.triton.checks.ensembles import (
    find_circle_faults,
    find_flow_faults,
    find_map_faults,
    find_step_faults,
)
from llmopt.triton.checks.files import (
    find_environment_faults,
    find_label_faults,
    find_model_file_faults,
    find_version_faults,
)
from llmopt.triton.checks.generate_models import find_generate_faults
from llmopt.triton.checks.onnx_signature import find_onnx_faults, find_session_faults
from llmopt.triton.checks.python_models import find_python_faults
from llmopt.triton.checks.release import (
    find_opset_faults,
    find_release_faults,
    find_tensorrt_version_faults,
)
from llmopt.triton.checks.report import Fault, Finding, RepositoryReport
from llmopt.triton.checks.repository import Repository, ServedModel, read_repository
from llmopt.triton.checks.requirements import find_requirement_faults
from llmopt.triton.checks.scheduling import (
    find_added_delays,
    find_batching_faults,
    find_instance_faults,
    find_own_scheduler_faults,
    find_server_needs,
)
from llmopt.triton.checks.vllm_models import find_vllm_faults
from llmopt.triton.checks.warm_up import find_warm_up_faults

ModelCheck = Callable[[Repository, ServedModel], Iterator[Finding]]
RepositoryCheck = Callable[[Repository], Iterator[Finding]]


@dataclass(frozen=True)
class CheckGroup:
    """Checks that a person thinks of as one.

    Attributes:
        title: What they look at.
        checks: Each is asked about each model.
        backend: The models that they are for; None for all.
    """

    title: str
    checks: tuple[ModelCheck, ...]
    backend: str | None = None

    def choose_models(self, repository: Repository) -> list[ServedModel]:
        """Returns the models that the group is for."""
        models = repository.models.values()
        return [model for model in models if self.backend in (None, model.backend)]


GROUPS = (
    CheckGroup(
        "config.pbtxt: name, backend, batch, inputs and outputs",
        (find_identity_faults, find_tensor_faults),
    ),
    CheckGroup(
        "config.pbtxt: batching, instances, cache, rate limiter",
        (find_batching_faults, find_instance_faults, find_server_needs, find_own_scheduler_faults),
    ),
    CheckGroup(
        "files: versions, models, labels, warm-up, environments",
        (
            find_version_faults,
            find_model_file_faults,
            find_label_faults,
            find_warm_up_faults,
            find_environment_faults,
        ),
    ),
    CheckGroup(
        "ensembles: steps, maps, data types, shapes, bytes",
        (
            find_step_faults,
            find_map_faults,
            find_flow_faults,
            find_circle_faults,
            find_meeting_faults,
            find_size_faults,
            find_added_delays,
        ),
        "ensemble",
    ),
    CheckGroup(
        "ONNX graphs: inputs, outputs, weights, opset, session",
        (find_onnx_faults, find_opset_faults, find_session_faults),
        "onnxruntime",
    ),
    CheckGroup(
        "engines: inputs, outputs, profiles, buckets",
        (find_engine_faults, find_tensorrt_version_faults),
        "tensorrt",
    ),
    CheckGroup(
        "Python models: names, methods, tensors read and written, settings",
        (find_python_faults, find_generate_faults, find_setting_faults),
        "python",
    ),
    CheckGroup("vLLM models: model.json, checkpoint", (find_vllm_faults,), "vllm"),
)
REPOSITORY_CHECKS: tuple[RepositoryCheck, ...] = (
    find_release_faults,
    find_requirement_faults,
    find_described_faults,
)


def check_repository(folder: Path) -> RepositoryReport:
    """Judges a model repository, made by llmopt or by hand, by its files.

    It is judged as a server judges it that completes no config (`--disable-auto-complete-config`).

    Args:
        folder: What the server would be started with.

    Raises:
        InputError: It is no repository, or triton.json does not read.
    """
    repository = read_repository(folder)
    report = RepositoryReport(faults=list(repository.unread.values()))
    for group in GROUPS:
        models = group.choose_models(repository)
        findings = [
            finding
            for model in models
            for check in group.checks
            for finding in check(repository, model)
        ]
        names = ", ".join(model.name for model in models)
        _add(report, f"{group.title} ({names})" if models else "", findings)
    findings = [finding for check in REPOSITORY_CHECKS for finding in check(repository)]
    _add(report, "triton.json and requirements.txt" if repository.description else "", findings)
    return report


def _add(report: RepositoryReport, title: str, findings: list[Finding]) -> None:
    """Adds a group's findings, each once; where it found nothing wrong, its title."""
    faults = [finding for finding in findings if isinstance(finding, Fault)]
    report.faults += [fault for fault in faults if fault not in report.faults]
    texts = [str(finding) for finding in findings if not isinstance(finding, Fault)]
    report.not_checked += dict.fromkeys(text for text in texts if text not in report.not_checked)
    if title and not faults:
        report.checked.append(title)
