"""The real tritonserver: how it starts, what it says when it refuses a repository, how it ends."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from llmopt.errors import InputError
from llmopt.triton.client import TritonClient
from llmopt.triton.model_environment import ModelEnvironment
from llmopt.triton.owner_mark import hold_mark, take_abandoned
from llmopt.triton.server import ServerOptions, TritonServer, end_processes
from llmopt.triton.shared_memory import SHARED_MEMORY, make_region_prefix, remove_regions
from tests.models import REPOSITORY
from tests.triton.repositories import ECHO, SPELL, add_model, list_regions

WITHOUT_IO = 'name: "echo"\nbackend: "python"\n'
AUTO_COMPLETES = """
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "numbers", "data_type": "TYPE_INT64", "dims": [-1]})
        config.add_input({"name": "texts", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_output({"name": "doubled", "data_type": "TYPE_INT64", "dims": [-1]})
        config.add_output({"name": "same", "data_type": "TYPE_STRING", "dims": [1]})
        config.set_max_batch_size(2)
        return config
"""


def list_children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_it_is_ready_then_gone_with_its_stubs_and_memory(
    tmp_path: Path, bare_environment: ModelEnvironment
) -> None:
    add_model(tmp_path / "repository", "echo", ECHO, "echo.py")
    before = set(tmp_path.rglob("*"))
    with TritonServer(tmp_path / "repository", bare_environment, tmp_path / "log") as server:
        assert TritonClient.of(server).is_ready("echo")
        assert 0 < server.ready_s < 60
        assert server.http_address.startswith("127.0.0.1:")
        addresses = {server.http_address, server.grpc_address, server.metrics_address}
        assert len(addresses) == 3
        regions = list_regions(server.pid)
        stubs = list_children(server.pid)
        assert regions
        assert any("triton_python_backend_stub" in " ".join(stub.cmdline()) for stub in stubs)
    assert not server.is_running
    assert not any(stub.is_running() for stub in stubs)
    assert not any(region.exists() for region in regions)
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "log"}, "it wrote into the repository"


def test_a_killed_server_leaves_no_stub_and_no_shared_memory(
    tmp_path: Path, bare_environment: ModelEnvironment
) -> None:
    add_model(tmp_path / "repository", "echo", ECHO, "echo.py")
    with TritonServer(tmp_path / "repository", bare_environment, tmp_path / "log") as server:
        regions = list_regions(server.pid)
        stubs = list_children(server.pid)
        assert regions
        assert stubs
        os.kill(server.pid, signal.SIGKILL)
        for _ in range(100):
            if not server.is_running:
                break
            time.sleep(0.05)
    assert not server.is_running
    assert not any(stub.is_running() for stub in stubs)
    assert not any(region.exists() for region in regions)


@pytest.mark.parametrize(
    ("strict", "max_batch_size", "inputs"), [(True, 0, []), (False, 2, ["numbers", "texts"])]
)
def test_only_a_lenient_server_completes_a_config(
    strict: bool,
    max_batch_size: int,
    inputs: list[str],
    tmp_path: Path,
    bare_environment: ModelEnvironment,
) -> None:
    folder = add_model(tmp_path / "repository", "echo", WITHOUT_IO, "echo.py")
    model = folder / "1" / "model.py"
    model.write_text(model.read_text() + AUTO_COMPLETES)
    options = ServerOptions(strict=strict)
    with TritonServer(tmp_path / "repository", bare_environment, tmp_path / "log", options) as it:
        config = TritonClient.of(it).read_config("echo")
    assert config["max_batch_size"] == max_batch_size
    assert [each["name"] for each in config["input"]] == inputs


def test_a_refusal_is_in_the_servers_words(
    tmp_path: Path, bare_environment: ModelEnvironment
) -> None:
    folder = add_model(tmp_path / "repository", "echo", ECHO, "echo.py")
    (folder / "1" / "model.py").write_text("import not_installed_here\n")
    add_model(tmp_path / "repository", "other", SPELL, "spell.py")
    with (
        pytest.raises(InputError) as refused,
        TritonServer(tmp_path / "repository", bare_environment, tmp_path / "log"),
    ):
        pass
    message = refused.value.message
    assert "No module named 'not_installed_here'" in message
    assert "unexpected directory name 'other' for model 'spell'" in message
    assert str(tmp_path / "log") not in str(refused.value.remedy), "it goes with the workspace"
    assert "CudaDriverHelper" not in message


def test_a_server_that_hangs_is_ended(tmp_path: Path, bare_environment: ModelEnvironment) -> None:
    folder = add_model(tmp_path / "repository", "echo", ECHO, "echo.py")
    (folder / "1" / "model.py").unlink()
    server = TritonServer(
        tmp_path / "repository",
        bare_environment,
        tmp_path / "log",
        ServerOptions(ready_timeout_s=4),
    )
    with pytest.raises(InputError, match="not ready within 4 s") as refused, server:
        pass
    assert "no model.py" in (refused.value.remedy or "")
    assert not server.is_running


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="needs /dev/shm")
def test_only_a_server_s_own_regions_are_removed() -> None:
    mine, others = make_region_prefix(), make_region_prefix()
    own, other = (SHARED_MEMORY / f"{prefix}{os.getpid()}" for prefix in (mine, others))
    unknown = SHARED_MEMORY / f"triton_python_backend_shm_region_of-a-test-{os.getpid()}"
    try:
        for file in (own, other, unknown):
            file.write_bytes(b"0" * 4096)
        assert remove_regions(mine) == [own]
        assert other.exists()
        assert unknown.exists(), "it may be a server's that can't be seen from here"
    finally:
        for file in (own, other, unknown):
            file.unlink(missing_ok=True)


def test_a_process_that_ended_meanwhile_stops_nobody_from_ending_the_others() -> None:
    first, second = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    listed = [psutil.Process(each.pid) for each in (first, second)]
    first.kill()
    first.wait()
    end_processes(listed)
    assert not any(each.is_running() for each in listed)
    second.wait(5)


@pytest.mark.parametrize("name", ["my work", "a;b & 'c' $d"])
def test_paths_may_hold_what_a_shell_would_not_read(
    name: str, tmp_path: Path, bare_environment: ModelEnvironment
) -> None:
    work = tmp_path / name
    folder = add_model(work / "repository", "echo", ECHO, "echo.py")
    environment = work / "environment"
    environment.symlink_to(bare_environment.folder)
    backends = {"echoing": work / "backend"}
    backends["echoing"].mkdir()
    shutil.copyfile(folder / "1" / "model.py", backends["echoing"] / "model.py")
    (work / "repository" / "other" / "1").mkdir(parents=True)
    other = ECHO.replace('"echo"', '"other"').replace('"python"', '"echoing"')
    (work / "repository" / "other" / "config.pbtxt").write_text(other)
    options = ServerOptions(backends=backends)
    served = TritonServer(work / "repository", ModelEnvironment(environment), work / "log", options)
    with served as server:
        client = TritonClient.of(server)
        assert client.is_ready("echo")
        assert client.is_ready("other")
        regions = list_regions(server.pid)
        assert len(regions) == len(("echo", "other"))
    assert not any(region.exists() for region in regions)
    (folder / "config.pbtxt").write_text("no config")
    with pytest.raises(InputError, match="failed to read text proto") as refused, served:
        pass
    assert f"{folder}/config.pbtxt" in refused.value.message


def test_a_refusal_without_an_error_line_ends_with_the_log_s_last_lines(
    tmp_path: Path, bare_environment: ModelEnvironment
) -> None:
    add_model(tmp_path / "repository", "echo", ECHO, "echo.py")
    options = ServerOptions(arguments=("--help",))
    with (
        pytest.raises(InputError, match=r"its log ends with: .* \| ") as refused,
        TritonServer(tmp_path / "repository", bare_environment, tmp_path / "log", options),
    ):
        pass
    last = (tmp_path / "log").read_text().split()[-1]
    assert last in refused.value.message


def test_a_second_stop_looks_at_no_process(
    tmp_path: Path, bare_environment: ModelEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's number is free after the first: who has it then would be killed by chance."""
    add_model(tmp_path / "repository", "echo", ECHO, "echo.py")
    looked: list[str] = []
    with TritonServer(tmp_path / "repository", bare_environment, tmp_path / "log") as server:
        all_processes = psutil.process_iter
        monkeypatch.setattr(psutil, "process_iter", lambda: looked.append("") or all_processes())
        server.stop()
        assert looked == [""]
    assert looked == [""]
    assert not server.is_running


STARTS_AND_WAITS = """
import sys, time
from pathlib import Path
from llmopt.triton.model_environment import ModelEnvironment
from llmopt.triton.server import TritonServer
repository, environment, log = map(Path, sys.argv[1:])
with TritonServer(repository, ModelEnvironment(environment), log) as server:
    print(server.pid, flush=True)
    time.sleep(60)
"""


def test_it_dies_with_the_process_that_started_it_and_the_next_start_clears_up(
    tmp_path: Path, bare_environment: ModelEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(tmp_path / "repository", "echo", ECHO, "echo.py")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read anew, here as in the process below
    arguments = [tmp_path / "repository", bare_environment.folder, tmp_path / "log"]
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_WAITS, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        regions = list_regions(server.pid)
        prefix = regions[0].name[: len(make_region_prefix())]
        mark = SHARED_MEMORY / f"{prefix}owner"
        (folder,) = (tmp_path / "tmp").glob("llmopt-server-*")
        with TritonServer(tmp_path / "repository", bare_environment, tmp_path / "second"):
            assert mark.exists(), "it is a living server's"
            assert folder.exists()
            assert all(region.exists() for region in regions)
        parent.kill()
    assert psutil.wait_procs([server], timeout=15)[1] == []
    assert mark.exists()
    assert folder.exists()
    lost = SHARED_MEMORY / f"{prefix}lost"
    lost.write_bytes(b"0" * 4096)  # as the server leaves where it is killed as well
    with TritonServer(tmp_path / "repository", bare_environment, tmp_path / "third"):
        assert not folder.exists()
        assert list(SHARED_MEMORY.glob(f"{prefix}*")) == []


def test_a_mark_is_free_when_its_owner_and_whoever_inherited_it_is_gone(tmp_path: Path) -> None:
    mark = tmp_path / "owner"
    with hold_mark(mark) as descriptor:
        with take_abandoned(mark) as is_abandoned:
            assert not is_abandoned
        heir = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
        kept = tmp_path / "kept"
        kept.hardlink_to(mark)
    try:
        assert not mark.exists()
        with take_abandoned(kept) as is_abandoned:
            assert not is_abandoned, "the heir lives"
    finally:
        heir.kill()
        heir.wait()
    with take_abandoned(kept) as is_abandoned:
        assert is_abandoned
    with take_abandoned(mark) as is_abandoned:
        assert not is_abandoned, "there is none"
