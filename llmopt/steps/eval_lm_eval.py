"""`eval.lm_eval`: named tasks of lm-evaluation-harness on the dequantised model."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationInfo, model_validator

from llmopt.artifacts.digest import digest_entries, digest_file
from llmopt.artifacts.files import expand_home
from llmopt.artifacts.manifest import ArtifactKind
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.data.dataset_spec import Template
from llmopt.errors import CapabilityError, InputError
from llmopt.serving.target import Target
from llmopt.steps.base import NotIdentity, Outcome, RunContext, StepBase, StepInputs
from llmopt.steps.eval_techpack import ComputeDtype
from llmopt.steps.measure_fields import AnyModelName, OptionalModelName


class EvalLmEval(StepBase):
    """Runs tasks of lm-evaluation-harness; its metrics become TASK.METRIC."""

    produces: ClassVar[ArtifactKind] = "evaluation"

    uses: Literal["eval.lm_eval"]
    model: AnyModelName = Field(description="The model to examine, plain or quantised.")
    baseline: OptionalModelName = Field(
        None, description="The model it should equal: adds TASK.baseline_METRIC."
    )
    tasks: tuple[str, ...] = Field(min_length=1, description="Tasks or groups, as lm_eval says.")
    task_path: Annotated[str | None, NotIdentity()] = Field(
        None,
        description="A folder of own task YAMLs, relative to the recipe; paths in `data_files` are "
        "relative to it.",
    )
    trust_task_code: bool = Field(
        False,
        description="Own tasks (task_path) are code: they name Python, include files and hold "
        "templates that lm_eval runs. true says that they were read.",
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Examples in front of each question (default: the task's)."
    )
    limit: int | None = Field(None, ge=1, description="Questions per task at most (default all).")
    batch_size: int = Field(8, ge=1, description="Requests computed together.")
    dtype: ComputeDtype = Field("float32", description="What weights are computed in.")
    template: Template = Field(
        "none", description="chat renders questions by the tokenizer's template."
    )
    _task_folder: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _find_task_folder(self, info: ValidationInfo) -> "EvalLmEval":
        """Relative paths start at the recipe's folder, which the loader gives as context."""
        if self.task_path is not None:
            base = (info.context or {}).get("folder", Path())
            self._task_folder = base / expand_home(self.task_path)
        return self

    @property
    def task_folder(self) -> Path | None:
        """The folder that `task_path` means."""
        return self._task_folder

    def identity_settings(self) -> dict[str, Any]:
        """Returns the settings, and the digest of the own tasks' files."""
        settings = super().identity_settings()
        if self._task_folder is not None:
            files = {path.relative_to(self._task_folder): path for path in self._list_task_files()}
            digests = {name.as_posix(): digest_file(path) for name, path in files.items()}
            settings["task_files"] = digest_entries(digests)
        return settings

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the metrics."""
        return (*super().identity_packages(), "lm_eval")

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Opens the models that exist already.

        Raises:
            InputError: A model or the folder is unsuitable, or own tasks are not trusted.
        """
        del target
        for field in ("model", "baseline"):
            if field in inputs and inputs[field].path.exists():
                Checkpoint.open(inputs[field].path).require_tokenizer()
        self._list_task_files()
        # No search for code in them would be sure: a YAML may include others and hide its tags.
        if self.task_path is not None and not self.trust_task_code:
            raise InputError(
                f"task_path {self._task_folder}: own tasks may run code on this machine",
                remedy="read them, then set `trust_task_code: true`",
            )

    def require_tools(self) -> None:
        """Refuses where lm_eval is not installed.

        Raises:
            CapabilityError: It is not.
        """
        for name in ("lm_eval", "accelerate"):
            if importlib.util.find_spec(name) is None:
                raise CapabilityError(
                    f"eval.lm_eval needs {name}, which is not installed",
                    remedy="pip install 'llmopt[lm-eval]'",
                )

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Runs the tasks on the model, and on its baseline where one is given.

        Raises:
            CapabilityError: lm_eval is not installed.
        """
        self.require_tools()
        from llmopt.steps.lm_eval_run import run_lm_eval  # noqa: PLC0415 - torch

        return run_lm_eval(self, inputs, context)

    def _list_task_files(self) -> list[Path]:
        folder = self._task_folder
        if folder is None:
            return []
        if not folder.is_dir():
            raise InputError(f"task_path {folder} is no folder")
        files = (path for path in folder.rglob("*") if path.is_file())
        return sorted(path for path in files if "__pycache__" not in path.parts)
