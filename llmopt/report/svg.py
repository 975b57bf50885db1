"""Writes SVG elements; every text and attribute is escaped by the serialiser."""

from dataclasses import dataclass
from xml.etree import ElementTree

SVG_NAMESPACE = "http://www.w3.org/2000/svg"
Element = ElementTree.Element
Attribute = str | float


@dataclass(frozen=True)
class Svg:
    """A finished drawing; templates insert it as it is."""

    text: str

    def __html__(self) -> str:
        """Tells the template engine that this is markup, written by `finish` alone."""
        return self.text


def start(label: str, **attributes: Attribute) -> Element:
    """Begins a drawing that a screen reader announces as `label`."""
    root = ElementTree.Element("svg", {"xmlns": SVG_NAMESPACE, "role": "img", "aria-label": label})
    _set(root, attributes)
    return root


def add(parent: Element, tag: str, text: str | None = None, **attributes: Attribute) -> Element:
    """Appends an element; `_` in an attribute's name stands for `-`, `class_` for `class`."""
    element = ElementTree.SubElement(parent, tag)
    element.text = text
    _set(element, attributes)
    return element


def finish(root: Element) -> Svg:
    """Serialises a drawing."""
    return Svg(ElementTree.tostring(root, encoding="unicode"))


def _set(element: Element, attributes: dict[str, Attribute]) -> None:
    for name, value in attributes.items():
        text = value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
        element.set("viewBox" if name == "view_box" else name.rstrip("_").replace("_", "-"), text)
