"""What looking at a repository found."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    """One thing that would be refused or served wrongly.

    Attributes:
        model: The model's folder; "" where it is the repository as a whole.
        file: Relative to the repository.
        field: What in it, by the name that it has there; "" where it is the whole file.
        found: What stands there, as a predicate: "is -1", "names no input of scorer".
        allowed: What may stand there.
        fix: What to do, as an order.
    """

    model: str
    file: str
    field: str
    found: str
    allowed: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.field}" if self.field else self.file
        return f"{place} {self.found}; {self.allowed}: {self.fix}"


@dataclass(frozen=True)
class Unchecked:
    """Something that files alone do not tell, with the reason."""

    text: str

    def __str__(self) -> str:
        return self.text


Finding = Fault | Unchecked


@dataclass
class RepositoryReport:
    """What was looked at, what files alone do not tell, and what was wrong.

    Attributes:
        checked: One line for each group of checks that found nothing.
        not_checked: One line each, with the reason.
        faults: Empty where the repository is sound as far as was looked.
    """

    checked: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
