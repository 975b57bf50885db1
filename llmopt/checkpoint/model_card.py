"""The README.md of a quantised checkpoint: what it is, and what loads and serves it."""

from collections.abc import Mapping
from pathlib import Path

CARD_NAME = "README.md"
FRONT_MATTER = (
    "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [{tags}]\n---\n"
)


def write_model_card(
    folder: Path, title: str, tags: tuple[str, ...], settings: Mapping[str, object], serving: str
) -> None:
    """Writes the card.

    Args:
        folder: The checkpoint's folder.
        title: The heading.
        tags: What a hub lists it under.
        settings: The quantisation's settings by name.
        serving: Markdown that says what loads it, and how.
    """
    rows = [f"| `{name}` | {_format(value)} |" for name, value in settings.items()]
    text = "\n".join(
        [
            FRONT_MATTER.format(tags=", ".join(tags)),
            f"# {title}\n",
            "Made by llmopt; `manifest.json` says from what, with which versions, and how far each "
            "layer's weights moved.\n",
            "| setting | |\n|---|---|",
            *rows,
            f"\n{serving}",
        ]
    )
    (folder / CARD_NAME).write_text(text, encoding="utf-8")


def _format(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
