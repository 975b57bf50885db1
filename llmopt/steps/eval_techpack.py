"""`eval.techpack`: tasks with checkable answers, scored by exact match or by likelihood."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmopt.artifacts.digest import digest_file
from llmopt.artifacts.manifest import ArtifactKind
from llmopt.checkpoint.checkpoint import Checkpoint
from llmopt.data.dataset_spec import Template
from llmopt.data.task_items import TaskItem, locate_shipped_tasks, read_tasks, select_tasks
from llmopt.errors import InputError
from llmopt.serving.target import Target
from llmopt.steps.base import InputRef, NotIdentity, Outcome, RunContext, StepBase, StepInputs
from llmopt.steps.measure_fields import AnyModelName, OptionalModelName, check_same_vocabulary

ComputeDtype = Literal["float32", "bfloat16", "float16"]
LOCATING_FIELDS = {"path", "set", "split"}  # what a data set may say here; the rest cuts documents


class EvalTechpack(StepBase):
    """Gives a model the tasks of a set and judges each answer: right or wrong."""

    produces: ClassVar[ArtifactKind] = "evaluation"

    uses: Literal["eval.techpack"]
    model: AnyModelName = Field(description="The model to examine, plain or quantised.")
    baseline: OptionalModelName = Field(
        None, description="The model it should equal: adds agreement and accuracy_change."
    )
    data: Annotated[str | None, InputRef(("dataset",))] = Field(
        None, description="A data set whose `path` is a .jsonl of own tasks (default: shipped)."
    )
    protocol: Literal["generate", "likelihood"] = Field(
        "generate",
        description="generate decodes greedily and checks the answer; likelihood, for models too "
        "small to answer, asks whether the right answer is more probable than planted wrong ones.",
    )
    limit: int | None = Field(
        None, ge=1, description="Tasks at most, spread over the set (default all)."
    )
    max_new_tokens: int = Field(
        512, ge=1, description="generate: the longest answer; one cut off there is wrong."
    )
    batch_size: int = Field(8, ge=1, description="generate: prompts decoded together.")
    dtype: ComputeDtype = Field("float32", description="What weights are computed in.")
    activation_memory_gb: Annotated[float, NotIdentity()] = Field(
        8.0, gt=0, description="likelihood: activations kept in memory; the rest goes to disk."
    )
    template: Template = Field(
        "chat", description="chat renders prompts by the tokenizer's template; none joins them."
    )

    def identity_settings(self) -> dict[str, Any]:
        """Returns the settings, and the digest of the shipped tasks where those are used."""
        settings = super().identity_settings()
        if self.data is None:
            settings["shipped_tasks"] = digest_file(locate_shipped_tasks())
        return settings

    def identity_packages(self) -> tuple[str, ...]:
        """Names the libraries whose version changes the verdicts."""
        return (*super().identity_packages(), "jsonschema")

    def preflight(self, inputs: StepInputs, target: Target | None) -> None:
        """Opens the models that exist already, and holds every task against itself."""
        from llmopt.evaluate.answer_checks import verify_items  # noqa: PLC0415 - 0.1 s, rarely used

        del target
        opened = []
        for field in ("model", "baseline"):
            if field in inputs and inputs[field].path.exists():
                checkpoint = Checkpoint.open(inputs[field].path)
                checkpoint.require_tokenizer()
                opened.append(checkpoint)
        if self.protocol == "likelihood":
            check_same_vocabulary(opened)
        if self.data is None or "data" in inputs:
            verify_items(self.read_items(inputs))

    def read_items(self, inputs: StepInputs) -> list[TaskItem]:
        """Reads the tasks and takes `limit` of them.

        Raises:
            InputError: The file can't be read, holds too few, or its data set asks for more than
                a file; or an item has no distractor to compare with.
        """
        items = select_tasks(read_tasks(self._locate_tasks(inputs)), self.limit)
        bare = [item.id for item in items if not item.distractors]
        if self.protocol == "likelihood" and bare:
            raise InputError(
                f"protocol likelihood compares with distractors; {len(bare)} items have none, "
                f"the first is {bare[0]}",
                remedy="add distractors to them, or use protocol: generate",
            )
        return items

    def run(self, inputs: StepInputs, context: RunContext) -> Outcome:
        """Examines the model, and its baseline where one is given."""
        from llmopt.steps.techpack_run import run_techpack  # noqa: PLC0415 - torch

        return run_techpack(self, inputs, context)

    def _locate_tasks(self, inputs: StepInputs) -> Path:
        if self.data is None:
            return locate_shipped_tasks()
        data = inputs["data"]
        if data.dataset is not None:
            given = data.dataset.model_dump(exclude_defaults=True).keys() - LOCATING_FIELDS
            if given:
                raise InputError(
                    f"data set {data.name}: {', '.join(sorted(given))} says nothing about tasks",
                    remedy="give the path alone; `limit` of the step takes fewer tasks",
                )
        return data.path
