"""Stand-ins for backends that the pinned server lacks, python-based by Triton's own mechanism.

A repository that names such a backend is tried and measured here with its files unchanged; where it
is really served, the C++ backend of that name runs it, with times of its own.
"""

from pathlib import Path

STAND_INS = ("onnxruntime",)
STAND_IN_REQUIREMENTS = {"onnxruntime": ("onnxruntime",)}


def find_backend(name: str) -> Path:
    """Returns the folder of a stand-in, for the server's backend directory."""
    return Path(__file__).parent / name
