"""Tries a repository with the real server: one prompt over HTTP, gRPC and streaming."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.triton_description import TritonDescription
from llmopt.triton.model_config import read_config
from llmopt.triton.served_repository import TrialOptions, serve_repository
from llmopt.triton.server_distribution import SERVER_RELEASE
from llmopt.triton.smoke_answers import Answer, Expected, ask_ensemble, ask_generate


@dataclass(frozen=True)
class SmokeReport:
    """A repository that answered.

    Attributes:
        answer: What it answered, and how long that took.
        server_release: Of the server that it was tried with.
        load_s: Seconds that loading its models took.
        overridden: Models that were loaded with another config than their file's → what differs.
        stand_ins: Backends that llmopt's own stood in for, since this server lacks them.
    """

    answer: Answer
    server_release: str
    load_s: float
    overridden: Mapping[str, tuple[str, ...]]
    stand_ins: tuple[str, ...]


def smoke_repository(
    folder: Path,
    description: TritonDescription,
    expected: Expected,
    options: TrialOptions,
    report: Callable[[str], None],
) -> SmokeReport:
    """Starts the server over a repository, asks it, compares its answers, and stops it.

    Args:
        folder: The repository; nothing is written into it.
        description: Its own.
        expected: What the served model answers when it is run directly.
        options: How to try it.
        report: Gets a sentence when something is about to take long.

    Raises:
        CapabilityError: No server is here, or it can't run this repository.
        InputError: The server refused the repository.
        RequestFailed: It refused a model or the request; a kind of InputError.
        NumericalError: Its answers differ from each other or from what was expected.
    """
    with serve_repository(folder, description, options, report) as served:
        server, timeout_s = served.server, options.timeout_s
        if description.shape == "generate":
            answer = ask_generate(server, description, expected, timeout_s)
        else:
            config = read_config(folder / description.model_name)
            answer = ask_ensemble(server, config, description.prompt, expected, timeout_s)
    return SmokeReport(answer, SERVER_RELEASE, served.load_s, served.overridden, served.stand_ins)
