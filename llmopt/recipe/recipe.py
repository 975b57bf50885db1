"""The recipe as a validated, frozen model."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from llmopt.artifacts.files import expand_home
from llmopt.data.dataset_spec import DatasetSpec
from llmopt.serving.target import Target
from llmopt.steps.union import Step

# Names become folder names under out/, never paths of their own; a dot would part a reference.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
RECIPE_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=80)]
RecipeName = Annotated[str, StringConstraints(pattern=RECIPE_NAME_PATTERN, max_length=80)]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?\Z")


class SourceSpec(BaseModel):
    """A model: a local folder, or a hub id with a revision."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    path: str | None = Field(None, description="A local folder; relative to the recipe.")
    hf: str | None = Field(None, description="A hub id, such as org/model.")
    revision: str | None = Field(None, description="The hub's commit, tag or branch.")
    kind: Literal["checkpoint", "onnx_model", "tensorrt_engine"] = Field(
        "checkpoint",
        description="What it is: a checkpoint, or a folder that export.onnx or build.tensorrt "
        "made.",
    )
    trust_remote_code: bool = Field(
        False, description="Let code that comes with the model run. Off unless said here."
    )

    @model_validator(mode="before")
    @classmethod
    def _parse_short_form(cls, value: Any) -> Any:
        """Reads `./folder`, `org/model` and `org/model@revision`."""
        if not isinstance(value, str):
            return value
        if value.startswith((".", "/", "~")) or not HUB_ID.match(value):
            return {"path": value}
        hub_id, _, revision = value.partition("@")
        return {"hf": hub_id, "revision": revision or None}

    @model_validator(mode="after")
    def _check_one_place(self) -> "SourceSpec":
        if (self.path is None) == (self.hf is None):
            raise ValueError("give exactly one of path and hf")
        if self.path is not None and self.revision is not None:
            raise ValueError("a local folder has no revision")
        if self.hf is not None and self.kind != "checkpoint":
            raise ValueError(f"a source of kind {self.kind} is a local folder, given as path")
        return self

    def describe(self) -> str:
        """Writes the source as its short form in a recipe."""
        if self.hf is None:
            return str(self.path)
        return self.hf if self.revision is None else f"{self.hf}@{self.revision}"

    def local_folder(self, base: Path) -> Path | None:
        """Returns the local folder, None for a hub id."""
        return None if self.path is None else base / expand_home(self.path)


class Recipe(BaseModel):
    """A whole recipe, after variants, overrides and interpolation."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    version: Literal[1] = Field(description="Version of the recipe syntax.")
    name: RecipeName = Field(
        description="The recipe's name; its outputs are linked under out/NAME."
    )
    description: str | None = Field(None, description="What the recipe is for.")
    params: dict[Name, str | int | float | bool | None] = Field(
        default_factory=dict, description="Values for ${params.NAME}."
    )
    env: tuple[str, ...] = Field((), description="Environment variables that ${env.NAME} may read.")
    sources: dict[Name, SourceSpec] = Field(
        default_factory=dict, description="Models, by the name that steps use."
    )
    datasets: dict[Name, DatasetSpec] = Field(
        default_factory=dict, description="Data sets, by the name that steps use."
    )
    target: Target | None = Field(None, description="What the artifacts are for.")
    steps: dict[Name, Step] = Field(min_length=1, description="Steps, by name.")
    variants: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Named patches, chosen by --variant."
    )
