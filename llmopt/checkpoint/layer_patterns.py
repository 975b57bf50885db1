"""The patterns by which recipes name layers: globs and regular expressions; no torch."""

import fnmatch
import re

REGEX = "re:"


def compile_layers(pattern: str) -> re.Pattern[str]:
    """Compiles a glob, or `re:` and a regular expression, for `fullmatch` on full layer names.

    Raises:
        ValueError: It is empty or no regular expression.
    """
    text = pattern.removeprefix(REGEX)
    if not text:
        raise ValueError(f"pattern {pattern!r} is empty")
    try:
        return re.compile(text if pattern.startswith(REGEX) else fnmatch.translate(pattern))
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None


def compile_parts(pattern: str) -> re.Pattern[str]:
    """Compiles the same, but a glob may also name some parts of a layer's name, in a row.

    So `mlp.down_proj`, `model.layers.0` and `experts` name all layers in whose names they stand
    between dots. A regular expression still has to match the whole name.

    Raises:
        ValueError: It is empty or no regular expression.
    """
    forms = [pattern]
    if pattern and not pattern.startswith(REGEX):
        forms += [f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*"]
    return re.compile("|".join(compile_layers(form).pattern for form in forms))
