"""The files that travel with a checkpoint's weights: tokenizer, generation config, licence."""

from pathlib import Path

SIDECAR_PATTERNS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "spiece.model",
    "generation_config.json", "chat_template.*", "LICENSE*", "NOTICE*",
)  # fmt: skip
VOCABULARY_PATTERNS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.*")


def list_sidecars(folder: Path) -> list[Path]:
    """Lists a checkpoint's files that are neither weights nor config.json, sorted by name."""
    found = {path for pattern in SIDECAR_PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in found if path.is_file())


def holds_vocabulary(folder: Path) -> bool:
    """Tells whether a folder has what a tokenizer of any kind, an encoder's too, is made of."""
    return any(path.is_file() for pattern in VOCABULARY_PATTERNS for path in folder.glob(pattern))
