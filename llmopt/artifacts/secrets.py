"""Keeps tokens out of manifests, logs and messages."""

import os
import re

SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|PRIVATE", re.IGNORECASE)
MIN_SECRET_LENGTH = 6


def is_secret_name(name: str) -> bool:
    """Tells whether an environment variable's name says that it holds a secret."""
    return SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Replaces the value of every secret environment variable in `text` by `***`."""
    for name, value in os.environ.items():
        if len(value) >= MIN_SECRET_LENGTH and is_secret_name(name):
            text = text.replace(value, "***")
    return text
