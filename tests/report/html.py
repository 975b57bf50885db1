"""Reads a report back: tables, drawings and tags, by the standard library's parser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "wbr", "link", "br", "img"}


@dataclass
class Tag:
    """One element with its text and what is inside."""

    name: str
    attributes: dict[str, str]
    children: list["Tag"] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, white space made one space."""
        return " ".join("".join(self.texts).split())

    def find_all(self, name: str, **attributes: str) -> list["Tag"]:
        """Finds every element of that name below, in order."""
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        found = []
        for child in self.children:
            if child.name == name and wanted.items() <= child.attributes.items():
                found.append(child)
            found += child.find_all(name, **attributes)
        return found

    def find(self, name: str, **attributes: str) -> "Tag":
        """Finds the first element of that name below."""
        return self.find_all(name, **attributes)[0]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Tag("document", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Tag(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Tag(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.texts.append(data)


def read_page(path: Path) -> Tag:
    """Parses a page; an element that is not closed fails."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert [element.name for element in reader.open] == ["document"]
    return reader.root


def read_drawings(path: Path) -> list[ElementTree.Element]:
    """Parses every SVG of a page as XML."""
    pieces = path.read_text(encoding="utf-8").split("<svg ")[1:]
    return [
        ElementTree.fromstring(f"<svg {piece.partition('</svg>')[0]}</svg>")  # noqa: S314 - ours
        for piece in pieces
    ]


def read_rows(table: Tag) -> list[list[str]]:
    """Returns the texts of a table's body."""
    return [
        [cell.text for cell in row.children if cell.name in {"th", "td"}]
        for row in table.find("tbody").find_all("tr")
    ]


def read_values(element: Tag) -> list[float]:
    """Returns the machine-readable numbers below an element."""
    return [float(data.attributes["value"]) for data in element.find_all("data")]
