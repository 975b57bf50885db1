"""Plain text out of HTML and of manual page sources."""

from __future__ import annotations

import re
from html.parser import HTMLParser

SKIPPED_TAGS = {"script", "style", "head", "header", "footer", "nav", "aside", "svg", "title"}
SKIPPED_CLASSES = {
    "navheader", "navfooter", "toc", "docnav", "related", "sphinxsidebar", "footer", "clearer",
    "headerlink", "index", "genindex", "list-of-tables", "list-of-figures", "list-of-examples",
    "howtoget", "relatedtopics", "noteicon", "iconcell", "indexterm",
}  # fmt: skip
SKIPPED_IDS = {"banner", "toc", "footer", "TopLeftHeader", "DonationFrame"}
VOID_TAGS = {
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
}  # fmt: skip
PARAGRAPH_TAGS = {
    "address", "article", "blockquote", "body", "dd", "div", "dl", "dt", "figcaption", "figure",
    "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "main", "ol", "p", "pre", "section", "table",
    "ul",
}  # fmt: skip

WIDE = r"[\u3000-\u9fff\uff00-\uffef]"
WRAPPED_JAPANESE = re.compile(rf"(?<={WIDE})\s*\n\s*(?={WIDE})")


class _TextExtractor(HTMLParser):
    """Collects text; navigation, scripts and tables of contents are left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self._skipping = 0
        self._pre = 0

    def _unwanted(self, tag: str, attrs: list[tuple[str, str | None]]) -> bool:
        found = dict(attrs)
        classes = set((found.get("class") or "").split())
        hidden = "hidden" in found or found.get("role") == "navigation"
        named = found.get("id") in SKIPPED_IDS or (found.get("id") == "title" and tag == "p")
        return tag in SKIPPED_TAGS or bool(classes & SKIPPED_CLASSES) or hidden or named

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element: note whether its text is wanted, and break paragraphs."""
        if tag == "br":
            self.parts.append("\n")
        if tag in VOID_TAGS:
            return
        skip = self._unwanted(tag, attrs)
        self._open.append((tag, skip))
        self._skipping += skip
        self._pre += tag == "pre"
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close an element and whatever was left open inside it."""
        if tag not in (name for name, _ in self._open):
            return
        while self._open:
            name, skip = self._open.pop()
            self._skipping -= skip
            self._pre -= name == "pre"
            self._break(name)
            if name == tag:
                return

    def _break(self, tag: str) -> None:
        if self._skipping:
            return
        if tag in PARAGRAPH_TAGS:
            self.parts.append("\n\n")
        elif tag == "tr":
            self.parts.append("\n")
        elif tag in {"td", "th"}:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        """Keep wanted text; outside `pre`, runs of white space become one space."""
        if self._skipping:
            return
        if not self._pre:
            data = _join_lines(data)
        self.parts.append(data)


def _join_lines(text: str) -> str:
    """Collapse white space; a line break between two Japanese characters is no space."""
    text = WRAPPED_JAPANESE.sub("", text)
    return re.sub(r"[ \t\r\n\f]+", " ", text)


def _tidy(text: str) -> str:
    text = text.replace("\u00a0", " ").replace("\u200b", "").replace("¶", "")
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def html_to_text(html: str) -> str:
    """The text of one HTML page, paragraphs parted by empty lines."""
    parser = _TextExtractor()
    parser.feed(html)
    parser.close()
    return _tidy("".join(parser.parts))


ROFF_ESCAPES = (
    (re.compile(r"\\\".*"), ""),
    (re.compile(r"\\f(\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\s[+-]?\d"), ""),
    (re.compile(r"\\\*(\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\\(co|\\\(rg|\\\(tm"), ""),
    (re.compile(r"\\\(em|\\\(en"), "-"),
    (re.compile(r"\\\(bu"), "*"),
    (re.compile(r"\\\(aq|\\\(cq|\\\(oq"), "'"),
    (re.compile(r"\\\(dq|\\\(lq|\\\(rq"), '"'),
    (re.compile(r"\\\(..|\\\[[^\]]*\]"), ""),
    (re.compile(r"\\[%&/,:|^)]|\\c$"), ""),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\-"), "-"),
    (re.compile(r"\\[e\\]"), r"\\"),
)
HEADING_MACROS = {"SH", "SS", "Sh", "Ss"}
BREAK_MACROS = {"PP", "P", "LP", "Pp", "TP", "IP", "HP", "RS", "RE", "sp", "TQ", "It", "Bl", "El"}
FONT_MACROS = {"B", "I", "BR", "IR", "RB", "RI", "BI", "IB", "SM", "SB"}


def _clean_roff(line: str) -> str:
    for pattern, replacement in ROFF_ESCAPES:
        line = pattern.sub(replacement, line)
    return line


def _macro_text(name: str, rest: str) -> str | None:
    """The text a macro line stands for, or None for a macro without text."""
    words = re.findall(r'"([^"]*)"|(\S+)', rest)
    args = [_clean_roff(quoted or bare) for quoted, bare in words]
    if name in HEADING_MACROS:
        return "\n\n" + " ".join(args) + "\n\n"
    if name in BREAK_MACROS:
        label = args[0] if name == "IP" and args else ""
        return f"\n\n{label}\n" if len(label) > 1 else "\n\n"
    if name in FONT_MACROS:
        return ("" if len(name) == 2 and name not in {"SM", "SB"} else " ").join(args) + "\n"
    return None


def man_to_text(source: str) -> str:
    """The text of one manual page; empty for a link and for a page in mdoc macros."""
    if source.startswith(".so ") or re.search(r"^\.Dd", source, re.MULTILINE):
        return ""
    parts: list[str] = []
    verbatim = table = False
    for line in source.splitlines():
        macro = re.match(r"[.'][ \t]*([A-Za-z]+)\s*(.*)", line)
        if macro:
            name, rest = macro.group(1), macro.group(2)
            verbatim = (verbatim or name in {"nf", "EX"}) and name not in {"fi", "EE"}
            table = (table or name == "TS") and name != "TE"
            text = _macro_text(name, rest)
            parts.append(text if text is not None else "")
        elif not line.startswith((".", "'")) and not table:
            parts.append(_clean_roff(line) + ("\r" if verbatim else "\n"))
    return _tidy(_fill("".join(parts)))


def _fill(text: str) -> str:
    r"""Join single line breaks (`\r` marks the breaks of verbatim text, which stay)."""
    paragraphs = [_join_lines_keep(p) for p in re.split(r"\n{2,}", text)]
    return "\n\n".join(paragraphs)


def _join_lines_keep(paragraph: str) -> str:
    lines = paragraph.split("\r")
    return "\n".join(line if "\n" not in line else _join_lines(line) for line in lines)
