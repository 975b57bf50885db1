"""Bytes of a text."""

WIDTH = 4


def read_codes(text):
    """Returns the first bytes, filled up with 0."""
    codes = list(text[:WIDTH])
    return codes + [0] * (WIDTH - len(codes))
