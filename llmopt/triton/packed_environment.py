"""The Python environment of a repository's models, packed so that the server unpacks it itself.

The server's stub takes an archive in EXECUTION_ENV_PATH, unpacks it, and starts after `source
bin/activate`. A virtual environment does not move by itself: its activate and its scripts name the
folder that it was made in, and its interpreter is a link. All are written anew for the container's
Python.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from llmopt.errors import CapabilityError

PACKED_NAME = "environment.tar.gz"
# The server puts the model's folder in place of the variable; the archive lies beside it.
PACKED_PATH = f"$$TRITON_MODEL_DIRECTORY/../{PACKED_NAME}"
SERVER_BIN = "/usr/bin"
ACTIVATED = 'VIRTUAL_ENV="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"'
OF_OTHER_SHELLS = ("activate.csh", "activate.fish", "Activate.ps1")
MOVABLE_SHEBANG = b"#!/usr/bin/env python3\n"  # after activate, the environment's own
PIP_ERROR_LINES = 3


def pack_environment(requirements: Path, python: str, target: Path) -> None:
    """Installs requirements into a virtual environment and packs it.

    Args:
        requirements: As pip reads them.
        python: The server's, such as "3.10".
        target: The archive, `.tar.gz`.

    Raises:
        CapabilityError: There is no such Python here, or pip can't install them.
    """
    interpreter = find_python(python)
    with tempfile.TemporaryDirectory(prefix="llmopt-environment-") as folder:
        environment = Path(folder)
        venv = [interpreter, "-m", "venv", "--prompt", target.name.partition(".")[0]]
        _run([*venv, str(environment)], "make a virtual environment")
        pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", "--requirement", str(requirements)], "install")
        _run([*pip, "uninstall", "--quiet", "--yes", "setuptools", "pip"], "remove pip")
        make_movable(environment, python)
        with tarfile.open(target, "w:gz", compresslevel=6) as archive:
            archive.add(environment, arcname=".", filter=_without_bytecode)


def find_python(version: str) -> str:
    """Returns an interpreter of a version such as "3.10".

    Raises:
        CapabilityError: There is none here.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None or not _runs(found):
        raise CapabilityError(
            f"the environment must be of Python {version}, the server's; python{version} is not "
            "installed here",
            remedy=f"install python{version} with its venv module, or leave pack_environment out "
            "and install requirements.txt on the server",
        )
    return found


def _runs(interpreter: str) -> bool:
    """Tells whether it starts: a shim may stand for one that is not there."""
    done = subprocess.run([interpreter, "--version"], capture_output=True, check=False)
    return done.returncode == 0


def make_movable(environment: Path, python: str) -> None:
    """Makes a virtual environment work wherever it is unpacked, over the server's interpreter."""
    binaries = environment / "bin"
    for name in ("python", "python3", f"python{python}"):
        (binaries / name).unlink(missing_ok=True)
        (binaries / name).symlink_to(f"{SERVER_BIN}/python{python}")
    config = environment / "pyvenv.cfg"
    text = re.sub(r"(?m)^home = .*$", f"home = {SERVER_BIN}", config.read_text(encoding="utf-8"))
    kept = (line for line in text.splitlines() if not re.match(r"(executable|command) =", line))
    config.write_text("\n".join(kept) + "\n", encoding="utf-8")
    activate = binaries / "activate"
    script = activate.read_text(encoding="utf-8")
    script, count = re.subn(r"(?m)^\s*(export )?VIRTUAL_ENV=.*$", lambda _: ACTIVATED, script)
    assert count, "activate sets no VIRTUAL_ENV"
    activate.write_text(script, encoding="utf-8")
    for name in OF_OTHER_SHELLS:
        (binaries / name).unlink(missing_ok=True)
    for path in binaries.iterdir():
        _make_script_movable(path, environment)


def _make_script_movable(path: Path, environment: Path) -> None:
    """Lets a script of the environment start the interpreter that activate puts first."""
    if path.is_symlink():
        return
    shebang, newline, rest = path.read_bytes().partition(b"\n")
    if newline and shebang.startswith(b"#!" + os.fsencode(environment)):
        path.write_bytes(MOVABLE_SHEBANG + rest)


def _without_bytecode(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def _run(command: list[str], purpose: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-PIP_ERROR_LINES:])
        raise CapabilityError(
            f"could not {purpose} for the packed environment: {said}",
            remedy="see the message; or leave pack_environment out and install requirements.txt "
            "on the server",
        )
