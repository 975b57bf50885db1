"""The Python environment that a repository's models run in: made once per set of requirements."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmopt.artifacts.cache_folder import open_cache_folder
from llmopt.artifacts.digest import digest_value
from llmopt.artifacts.locking import hold_lock
from llmopt.errors import CapabilityError, InputError
from llmopt.triton.server_distribution import SERVER_NUMPY

STAMP_NAME = "llmopt-requirements.txt"  # stands in a whole environment

# The stub hears no PYTHONDONTWRITEBYTECODE, and a sealed repository must stay as it is.
NO_BYTECODE = "import sys; sys.dont_write_bytecode = True\n"


@dataclass(frozen=True)
class ModelEnvironment:
    """A virtual environment that the server's Python stub starts in.

    Attributes:
        folder: The environment's own.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def variables(self) -> dict[str, str]:
        """Returns what the server's environment says, so that its stubs start in this one."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {"PATH": path, "LD_LIBRARY_PATH": str(self.folder / "lib")}


def read_requirements(path: Path) -> tuple[str, ...]:
    """Reads the lines of a requirements.txt, without comments and empty lines.

    Raises:
        InputError: There is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path.parent} holds no {path.name}") from None
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return tuple(line for line in lines if line)


def make_environment(
    requirements: Sequence[str], report: Callable[[str], None]
) -> ModelEnvironment:
    """Makes the environment of these requirements in the cache, or finds it there.

    Args:
        requirements: Lines as pip reads them. What they say of numpy gives way to the version
            that the server of this machine needs.
        report: Gets a sentence when something is about to take long.

    Raises:
        CapabilityError: pip can't install them, or Python's shared library is missing.
    """
    lines = sorted({line for line in requirements if not re.match(r"numpy\b(?!-)", line, re.I)})
    lines.append(SERVER_NUMPY)
    library = _find_python_library()
    key = digest_value([lines, NO_BYTECODE, sys.version, sys.base_prefix])[:16]
    environments = open_cache_folder() / "environments"
    environment = ModelEnvironment(environments / key)
    stamp = environment.folder / STAMP_NAME
    with hold_lock(environments / f"{key}.lock", report):
        if not stamp.exists():
            shutil.rmtree(environment.folder, ignore_errors=True)
            report(f"making the models' Python environment ({', '.join(lines)})")
            _build(environment, lines, library)
            stamp.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return environment


def _build(environment: ModelEnvironment, lines: list[str], library: Path) -> None:
    venv.create(environment.folder, symlinks=True, with_pip=False)
    # The stub links to libpython, and the system may have another than this interpreter's.
    (environment.folder / "lib" / library.name).symlink_to(library)
    (_site_packages(environment) / "llmopt-no-bytecode.pth").write_text(NO_BYTECODE)
    wanted = environment.folder / "wanted.txt"
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(environment.python)]
    done = subprocess.run(
        [*pip, "install", "--quiet", "--requirement", str(wanted)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise CapabilityError(
            f"pip could not install {', '.join(lines)}: {said}",
            remedy="see pip's message; packages that lie at hand can be named in PIP_FIND_LINKS",
        )


def _site_packages(environment: ModelEnvironment) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment.folder / "lib" / version / "site-packages"


def _find_python_library() -> Path:
    """Returns this interpreter's libpython."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    base = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    places = (base, base / multiarch, Path(sys.base_prefix) / "lib")
    for place in places:
        if (place / name).exists():
            return place / name
    raise CapabilityError(
        f"{name} lies in none of {', '.join(map(str, dict.fromkeys(places)))}",
        remedy="use a Python with its shared library: apt-get install libpython3-dev, or one built "
        "with --enable-shared",
    )
