"""Keeps tokens out of manifests, logs and messages."""

import json
import os
import re

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
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


def _secret_spellings() -> set[str]:
    """Returns every secret as it stands, as JSON and as Python write it."""
    values = [
        value
        for name, value in os.environ.items()
        if len(value) >= MIN_SECRET_LENGTH and is_secret_name(name)
    ]
    escaped = [json.dumps(value, ensure_ascii=False)[1:-1] for value in values]
    return {*values, *escaped, *(repr(value)[1:-1] for value in values)}
