"""Whether a chat template keeps what a chat says."""

import unicodedata
from collections.abc import Iterator, Sequence

from llmopt.data.documents import Document
from llmopt.data.lint.finding import Finding, Place, Severity, report_places
from llmopt.data.lint.rows import Row
from llmopt.data.text_measures import WHITESPACE
from llmopt.data.tokenization import DocumentTokenizer
from llmopt.errors import InputError

Fault = tuple[Severity, str]


def report_chats(rows: Sequence[Row], tokenizer: DocumentTokenizer) -> list[Finding]:
    """Renders every chat and reports what the template or the tokenizer did to it."""
    chats = [row for row in rows if row.document.messages is not None]
    if not chats:
        return [Finding("chat-template", "info", "not checked: no chats")]
    if not tokenizer.has_chat_template:
        message = f"the tokenizer has none: {len(chats):,} chats can't be rendered"
        return [Finding("chat-template", "warning", f"{message} (template: chat)")]
    places: dict[Severity, list[Place]] = {"error": [], "warning": []}
    for row in chats:
        for severity, detail in find_chat_faults(row.document, tokenizer):
            places[severity].append(Place(row.origin, detail))
    total = len(chats)
    return [
        report_places(
            "chat-template", "error", places["error"], total, "do not survive the template"
        ),
        report_places("chat-form", "warning", places["warning"], total, "come back reshaped"),
    ]


def find_chat_faults(document: Document, tokenizer: DocumentTokenizer) -> Iterator[Fault]:
    """Yields what is wrong with one chat's rendering; once per kind of fault."""
    try:
        rendered = tokenizer.render(document, "chat")
    except InputError as error:
        yield "error", error.message.removeprefix(f"{document.origin}: ")
        return
    turns = [turn["content"] for turn in document.messages or ()]
    yield from _find_lost_turns(rendered, turns)
    bos = tokenizer.bos_text
    if bos and rendered.count(bos) - sum(turn.count(bos) for turn in turns) > 1:
        yield "error", f"the template writes {bos} more than once"
    decoded = tokenizer.decode(tokenizer.encode_as_is(rendered))
    if decoded == rendered:
        return
    same = _fold(decoded) == _fold(rendered)
    yield ("warning" if same else "error"), _describe_difference(rendered, decoded)


def _find_lost_turns(rendered: str, turns: Sequence[str]) -> Iterator[Fault]:
    """Yields turns that are not in the rendering, verbatim and after the turns before them."""
    end = 0
    for number, turn in enumerate(turns, start=1):
        place = rendered.find(turn, end)
        if place < 0:
            place = rendered.find(turn.strip(), end)
            if place < 0:
                yield "error", f"turn {number} is dropped, altered or out of order"
                return
            yield "warning", f"turn {number} loses whitespace at its ends"
        end = place + len(turn.strip())


def _describe_difference(rendered: str, decoded: str) -> str:
    pairs = zip(rendered, decoded, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(rendered), len(decoded)))
    return (
        f"the tokenizer gives back another text: {decoded[at : at + 12]!r} "
        f"for {rendered[at : at + 12]!r} at character {at}"
    )


def _fold(text: str) -> str:
    return WHITESPACE.sub("", unicodedata.normalize("NFKC", text))
