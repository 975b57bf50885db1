"""The system's refusals become errors with numbers; a bug stays a bug."""

import errno
import resource
import shutil
from pathlib import Path

import pytest

from llmopt.errors import InputError, LlmoptError, ResourceError
from llmopt.recipe.resources import explain_failure, resource_errors
from llmopt.steps.base import Estimate

ESTIMATE = Estimate(ram_bytes=3_000_000_000, disk_bytes=2_000_000, flops=1.0)
HUGE = Estimate(ram_bytes=1, disk_bytes=10**18, flops=1.0)


def test_work_that_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    with (
        pytest.raises(
            ResourceError, match=r"GB free; the step needs about 1000000\.0 TB"
        ) as caught,
        resource_errors(tmp_path, HUGE),
    ):
        pytest.fail("the work began")
    assert str(tmp_path) in caught.value.message
    assert caught.value.exit_code == 6


def test_unfinished_work_counts_towards_what_is_needed(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).free + 10**9
    estimate = Estimate(ram_bytes=1, disk_bytes=needed, flops=1.0)
    with pytest.raises(ResourceError, match="free; the step needs"):
        resource_errors(tmp_path, estimate).__enter__()
    with (tmp_path / "block").open("wb") as file:
        file.truncate(needed)  # sparse: a size without the bytes
    begun = False
    with resource_errors(tmp_path, estimate):
        begun = True
    assert begun


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(tmp_path: Path, number: int) -> None:
    expected = (
        rf"the disk of {tmp_path} is full \(.* free, the step needs about 2\.0 MB\); "
        "nothing was published"
    )
    with pytest.raises(ResourceError, match=expected), resource_errors(tmp_path, ESTIMATE):
        raise OSError(number, "no")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=["python", "system", "torch", "cuda", "loader"],
)
def test_no_memory(tmp_path: Path, error: Exception) -> None:
    expected = r"out of memory \(at most .* for this process now; about 3\.0 GB needed\)"
    with pytest.raises(ResourceError, match=expected), resource_errors(tmp_path, ESTIMATE):
        raise error


def test_a_limit_of_the_process_counts_as_what_is_available() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (999_000_000_000, before[1]))
    try:
        explained = explain_failure(MemoryError())
        resource.setrlimit(resource.RLIMIT_DATA, (7_000_000_000, before[1]))
        limited = explain_failure(MemoryError())
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert "at most 7.0 GB" in str(limited)
    assert "at most 999.0 GB" not in str(explained)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_may_not_be_used(number: int) -> None:
    explained = explain_failure(OSError(number, "refused", "/some/file"))
    assert isinstance(explained, InputError)
    assert explained.message == "/some/file: refused"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "/some/file"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
        PermissionError(errno.EACCES, "refused"),
    ],
    ids=["missing file", "torch", "loader", "no name"],
)
def test_a_bug_stays_a_bug(tmp_path: Path, error: Exception) -> None:
    assert explain_failure(error) is None
    with pytest.raises(type(error)) as caught, resource_errors(tmp_path, ESTIMATE):
        raise error
    assert caught.value is error


def test_errors_of_our_own_pass_through(tmp_path: Path) -> None:
    own = LlmoptError("as it is")
    with pytest.raises(LlmoptError) as caught, resource_errors(tmp_path, None):
        raise own
    assert caught.value is own
