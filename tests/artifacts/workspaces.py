"""Fills workspaces with a sealed artifact, as a step and its executor would."""

from pathlib import Path

from llmopt.artifacts.artifact import Artifact, describe_files
from llmopt.artifacts.destination import Destination
from llmopt.artifacts.manifest import Manifest, StepRecord, content_digest


def seal(work: Path, identity: str, text: str = "contents", setting: str = "") -> None:
    """Writes two files and the manifest that vouches for them."""
    (work / "sub").mkdir(exist_ok=True)
    (work / "a.txt").write_text(text, encoding="utf-8")
    (work / "sub" / "b.txt").write_text(text + text, encoding="utf-8")
    files = describe_files(work)
    Manifest(
        kind="evaluation",
        identity=identity,
        content_digest=content_digest(files),
        created="2026-01-01T00:00:00+00:00",
        step=StepRecord(id="step", uses="eval.perplexity", version=1, settings={"note": setting}),
        inputs={},
        files=files,
    ).write(work)


def publish(destination: Destination, identity: str, text: str = "contents") -> Artifact:
    """Makes and publishes an artifact."""
    seal(destination.open_workspace(identity), identity, text)
    return destination.publish(identity, print)
