"""Keeps tokens out of manifests, logs and messages."""

import json
import os
import re
from typing import Any

# TOKEN as a whole word: HF_TOKEN holds a secret, MAX_TOKENS does not.
SECRET_NAME = re.compile(
    r"(^|_)TOKEN(_|$)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE_KEY", re.IGNORECASE
)
MIN_SECRET_LENGTH = 6


def is_secret_name(name: str) -> bool:
    """Tells whether an environment variable's name says that it holds a secret."""
    return SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Replaces the value of every secret environment variable in `text` by `***`."""
    # The longest first: a secret may begin with another one.
    for value in sorted(_secret_spellings(), key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def redact_leaves(value: Any) -> Any:
    """Redacts every text inside JSON-like data; keys, numbers and structure stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_leaves(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_leaves(item) for item in value]
    return value


def _secret_spellings() -> set[str]:
    """Returns every secret as it stands, as JSON and as Python write it."""
    values = [
        value
        for name, value in os.environ.items()
        if len(value) >= MIN_SECRET_LENGTH and is_secret_name(name)
    ]
    escaped = [json.dumps(value, ensure_ascii=False)[1:-1] for value in values]
    return {*values, *escaped, *(repr(value)[1:-1] for value in values)}
