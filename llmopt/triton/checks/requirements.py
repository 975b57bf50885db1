"""requirements.txt: what it holds for the release's Python, and what the python models import."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from llmopt.artifacts.triton_description import REQUIREMENTS_NAME
from llmopt.triton.checks.python_source import read_python_source
from llmopt.triton.checks.release import find_python_version, get_release
from llmopt.triton.checks.report import Fault, Finding, Unchecked
from llmopt.triton.checks.repository import Repository, ServedModel
from llmopt.triton.releases import NUMPY_REQUIREMENT, TritonRelease

# Up to this release the python backend breaks with numpy 2: strings fail, integers come empty.
LAST_NUMPY_1 = "24.11"
PROVIDED = {"numpy", "triton_python_backend_utils"}
# Distributions that bring a module of another name.
DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "cv2": ("opencv-python", "opencv-python-headless"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "PIL": ("pillow",),
    "sklearn": ("scikit-learn",),
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "yaml": ("pyyaml",),
}
# Versions that a range is tried with, beside those that it names; no numpy has more of them.
NUMPY_2 = tuple(Version(f"2.{minor}.{patch}") for minor, patch in product(range(40), range(12)))
LATER = (Version("3"), Version("9999"))


@dataclass(frozen=True)
class _Requirements:
    """What the file asks for on the server.

    Attributes:
        packages: Normalised name → what is asked of it.
        unread: Lines that name files, folders or addresses, or are options of pip.
    """

    packages: dict[str, list[Requirement]]
    unread: list[str]

    def provide(self, module: str) -> bool:
        """Tells whether a module is in one of the packages."""
        names = DISTRIBUTIONS.get(module, (module,))
        return any(canonicalize_name(name) in self.packages for name in names)


def find_requirement_faults(repository: Repository) -> Iterator[Finding]:
    """Judges requirements.txt: its lines, numpy's version, and what the python models import."""
    path = repository.folder / REQUIREMENTS_NAME
    release = get_release(repository.description)
    python_models = [m for m in repository.models.values() if m.backend == "python"]
    if release is None or not path.is_file() or not python_models:
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        yield _fault(
            f"byte {error.start}", f"is 0x{byte:02x}", "UTF-8 is allowed", "save it in UTF-8"
        )
        return
    required = _Requirements({}, [])
    for number, line in enumerate(text.splitlines(), start=1):
        yield from _read_line(number, line, release, required)
    yield from _find_numpy_faults(required, release)
    yield from (Unchecked(f"{REQUIREMENTS_NAME}: what {line} brings") for line in required.unread)
    if not required.unread:
        for model in python_models:
            yield from _find_import_faults(repository, model, required)


def _fault(field: str, found: str, allowed: str, fix: str) -> Fault:
    return Fault("", REQUIREMENTS_NAME, field, found, allowed, fix)


def _read_line(
    number: int, line: str, release: TritonRelease, required: _Requirements
) -> Iterator[Fault]:
    """Adds what a line asks for, where the server's Python takes it."""
    # A package's own options, such as --hash, may follow on the next line.
    text = re.split(r"(?:^|\s)(?:#|--hash)", line, maxsplit=1)[0].strip().removesuffix("\\").strip()
    if not text:
        return
    if text.startswith("-") or ("/" in text and "@" not in text.split("/")[0]):
        required.unread.append(text)
        return
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        yield _fault(
            f"line {number}", f'is "{text}" ({reason})', "a requirement of pip is allowed",
            'write it as "numpy>=1.26,<2"',
        )  # fmt: skip
        return
    server = {
        "python_version": release.python,
        "python_full_version": f"{release.python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }
    if requirement.marker is None or requirement.marker.evaluate(server):
        name = canonicalize_name(requirement.name)
        required.packages.setdefault(name, []).append(requirement)


def _find_numpy_faults(required: _Requirements, release: TritonRelease) -> Iterator[Fault]:
    if release.release > LAST_NUMPY_1:
        return
    pins = required.packages.get("numpy", [])
    if not pins and required.unread:  # one of those may pin it
        return
    if pins and not any(pin.url for pin in pins) and not _allows_numpy_2(pins):
        return
    yield _fault(
        "numpy",
        f'is "{", ".join(map(str, pins))}"' if pins else "is not there",
        f"the python backend of {release.release} breaks with numpy 2: strings fail, integers "
        "come out empty",
        f'write "{NUMPY_REQUIREMENT}"',
    )


def _allows_numpy_2(pins: Sequence[Requirement]) -> bool:
    """Tells whether all pins together let a numpy of 2 or later in."""
    allowed = SpecifierSet()
    for pin in pins:
        allowed &= pin.specifier
    named = [_read_version(each.version) for each in allowed]
    later = [version for version in named if version is not None and version.major >= 2]
    tried = (*NUMPY_2, *LATER, *later)
    return any(allowed.contains(version, prereleases=True) for version in tried)


def _read_version(text: str) -> Version | None:
    try:
        return Version(text.removesuffix(".*"))
    except InvalidVersion:
        return None


def _find_import_faults(
    repository: Repository, model: ServedModel, required: _Requirements
) -> Iterator[Fault]:
    python = find_python_version(repository.description)
    for version, folder in model.served_versions.items():
        for file, line, module in read_python_source(folder, python).list_imports():
            known = module in PROVIDED or module in sys.stdlib_module_names
            if not known and not required.provide(module):
                yield model.fault(
                    f"line {line}",
                    f"imports {module}",
                    f"packages of {REQUIREMENTS_NAME} are allowed: "
                    f"{', '.join(sorted(required.packages))}",
                    f"add it to {REQUIREMENTS_NAME}",
                    f"{version}/{file}",
                )
