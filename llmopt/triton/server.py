"""Runs a real tritonserver over a repository for as long as a `with` block lasts."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from llmopt.errors import InputError
from llmopt.triton import server_process
from llmopt.triton.model_environment import ModelEnvironment
from llmopt.triton.server_arguments import STRICT
from llmopt.triton.server_distribution import require_server
from llmopt.triton.server_log import read_last_lines, read_server_errors
from llmopt.triton.server_paths import ServerPaths, link_paths
from llmopt.triton.shared_memory import make_region_prefix, own_regions, remove_regions

HOST = "127.0.0.1"
EXIT_TIMEOUT_S = 5  # what the server gives requests under way
GRACE_S = 5.0  # more than that, and it is killed
NEVER_READY_GRACE_S = 1.0  # a server that hangs while it loads hears no SIGTERM
POLL_S = 0.05
LAST_LINES = 5  # of a log without an error line
HIDDEN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class ServerOptions:
    """How a server is started.

    Attributes:
        explicit: Models are loaded and unloaded by request; none at the start but `models`.
        models: Loaded at the start of an explicit server.
        strict: Configs are taken as they stand; else the server completes them.
        backends: More backends beside `python`: name → folder.
        arguments: More arguments, as tritonserver takes them.
        variables: More environment variables.
        ready_timeout_s: Seconds that loading may take; a model without its model.py hangs for ever.
    """

    explicit: bool = False
    models: tuple[str, ...] = ()
    strict: bool = True
    backends: Mapping[str, Path] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    ready_timeout_s: float = 60.0


class TritonServer:
    """A tritonserver on free ports of 127.0.0.1, ready inside its `with` block, gone after it.

    The server dies with the thread that entered the block.

    Attributes:
        http_address: "127.0.0.1:PORT"; likewise `grpc_address` and `metrics_address`.
        log_path: What the server and its models print.
        ready_s: Seconds from the start until every model was ready.

    Raises:
        CapabilityError: There is no server in the cache.
        InputError: The server refused the repository, in its own words, or was not ready in time.
    """

    def __init__(
        self,
        repository: Path,
        environment: ModelEnvironment,
        log_path: Path,
        options: ServerOptions | None = None,
    ) -> None:
        self.repository = repository
        self.log_path = log_path
        self.ready_s = 0.0
        self._environment = environment
        self._options = options or ServerOptions()
        self._distribution = require_server()
        self._backends = {
            "python": self._distribution.backends / "python",
            **self._options.backends,
        }
        self._region_prefix = make_region_prefix()
        self._process: subprocess.Popen[bytes] | None = None
        self._session: int | None = None  # until nothing of it is left
        self._paths: ServerPaths | None = None
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        try:
            regions_mark = self._resources.enter_context(own_regions(self._region_prefix))
            self._paths = self._resources.enter_context(
                link_paths(self.repository, self._environment.folder, self._backends)
            )
            self._start(self._paths, regions_mark)
            if self._wait_until_ready():
                return self
            is_late = self.is_running
            self.stop(NEVER_READY_GRACE_S)
            raise self._explain_refusal(is_late=is_late)
        except BaseException:
            with self._resources:
                self.stop(NEVER_READY_GRACE_S)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._resources:
            self.stop()

    @property
    def pid(self) -> int:
        """The server's process id."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def read_errors(self) -> list[str]:
        """Returns the errors in the server's log so far."""
        errors = read_server_errors(self.log_path)
        if self._paths is None:
            return errors
        link, own = str(self._paths.repository), str(self.repository.absolute())
        return [error.replace(link, own) for error in errors]

    def stop(self, grace_s: float = EXIT_TIMEOUT_S + GRACE_S) -> None:
        """Ends the server and its stubs, and removes their shared memory; once is enough.

        Args:
            grace_s: Seconds between SIGTERM and SIGKILL.
        """
        if self._process is None or self._session is None:
            return
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end_processes(_list_session(self._session))
        self._session = None  # its number is free for others from here on
        remove_regions(self._region_prefix)

    def _start(self, paths: ServerPaths, regions_mark: int) -> None:
        ports = _find_free_ports(3)
        self.http_address, self.grpc_address, self.metrics_address = (
            f"{HOST}:{port}" for port in ports
        )
        inherited = {k: v for k, v in os.environ.items() if k not in HIDDEN_VARIABLES}
        variables = {
            **inherited,
            "PYTHONNOUSERSITE": "1",
            **ModelEnvironment(paths.environment).variables(),
            **self._options.variables,
        }
        launcher = [sys.executable, "-I", server_process.__file__, str(os.getpid())]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*launcher, *self._write_command(ports, paths)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
                pass_fds=(paths.mark, regions_mark),
            )
        self._session = self._process.pid

    def _write_command(self, ports: list[int], paths: ServerPaths) -> list[str]:
        options = self._options
        services = zip(("http", "grpc", "metrics"), ports, strict=True)
        command = [
            str(self._distribution.executable),
            f"--model-repository={paths.repository}",
            f"--backend-directory={paths.backends}",
            f"--cache-directory={self._distribution.caches}",
            *(f"--{name}-{key}" for name, port in services
              for key in (f"address={HOST}", f"port={port}")),
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            "--backend-config=python,stub-timeout-seconds=120",
            "--backend-config=python,shm-default-byte-size=4194304",
            *(f"--backend-config={name},shm-region-prefix-name={self._region_prefix}"
              for name in self._backends),
        ]  # fmt: skip
        if options.strict:
            command.append(STRICT)
        if options.explicit:
            command.append("--model-control-mode=explicit")
            command += [f"--load-model={name}" for name in options.models]
        return [*command, *options.arguments]

    def _wait_until_ready(self) -> bool:
        began = time.monotonic()
        while self.is_running and time.monotonic() - began < self._options.ready_timeout_s:
            if self._is_ready():
                self.ready_s = time.monotonic() - began
                return True
            time.sleep(POLL_S)
        return False

    def _is_ready(self) -> bool:
        # Another server would answer at a port that was taken in the meantime.
        if f"Started HTTPService at {self.http_address}" not in self.log_path.read_text(
            "utf-8", "replace"
        ):
            return False
        url = f"http://{self.http_address}/v2/health/ready"
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:  # not yet: urllib raises at 400 too
            return False

    def _explain_refusal(self, *, is_late: bool) -> InputError:
        assert self._process is not None
        # The log itself goes with the workspace, so that what it says has to stand here.
        text = "; ".join(self.read_errors())
        last = " | ".join(read_last_lines(self.log_path, LAST_LINES)) or "nothing"
        if is_late:
            return InputError(
                f"tritonserver was not ready within {self._options.ready_timeout_s:g} s over "
                f"{self.repository}: {text or f'it reported no error; its log ends with: {last}'}",
                remedy="it waits for ever where a version folder has no model.py",
            )
        status = self._process.returncode
        text = text or f"it ended with status {status}; its log ends with: {last}"
        return InputError(f"tritonserver refused {self.repository}: {text}")


def _find_free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def end_processes(processes: Iterable[psutil.Process]) -> None:
    """Kills processes, of which some may have ended by themselves meanwhile, and waits for them."""
    left = list(processes)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_S)


def _list_session(session: int) -> list[psutil.Process]:
    """Lists what is left of a server's session: stubs that outlived it."""
    return [process for process in psutil.process_iter() if _is_in_session(process.pid, session)]


def _is_in_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except ProcessLookupError:
        return False
