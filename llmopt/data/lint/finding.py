"""What a check says of a set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")  # the worst first


@dataclass(frozen=True)
class Place:
    """A row that a finding concerns.

    Attributes:
        origin: `file:line`.
        detail: What is wrong there.
    """

    origin: str
    detail: str = ""

    @property
    def name(self) -> str:
        """The origin without its folders."""
        return shorten_origin(self.origin)


@dataclass(frozen=True)
class Finding:
    """What one check found; `info` where nothing is wrong.

    Attributes:
        check: The check's name.
        severity: How bad it is.
        message: What was found, with its numbers.
        rows: The rows concerned.
    """

    check: str
    severity: Severity
    message: str
    rows: tuple[Place, ...] = ()


def shorten_origin(origin: str) -> str:
    """Leaves the folders out of `folder/file:line`."""
    return origin.rpartition("/")[2]


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Puts the worst first; equals stay in the order of the checks."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def count_severity(findings: Iterable[Finding], severity: Severity) -> int:
    """Counts the findings of one severity."""
    return sum(finding.severity == severity for finding in findings)


def count_documents(number: int) -> str:
    """Writes `1 document`, `2 documents`."""
    return f"{number:,} document{'' if number == 1 else 's'}"


def report_places(
    check: str, severity: Severity, places: Sequence[Place], total: int, verb: str
) -> Finding:
    """Says how many of `total` documents a check found; `info` if it found none."""
    if not places:
        return Finding(check, "info", f"none in {count_documents(total)}")
    number = len({place.origin for place in places})
    return Finding(check, severity, f"{number:,} of {count_documents(total)} {verb}", tuple(places))
