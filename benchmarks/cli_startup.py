"""Times how long the command line takes to start: `python benchmarks/cli_startup.py`.

Prints the median wall time of whole processes, each command in turn within one run, beside an
empty Python process, so that the figures can be read as ratios too.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
NUM_RUNS = 11
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "llmopt --help": [sys.executable, "-m", "llmopt", "--help"],
    "llmopt validate recipes/quickstart.yaml": [
        sys.executable, "-m", "llmopt", "validate", "recipes/quickstart.yaml",
    ],
}  # fmt: skip
AIMS_S = {"llmopt --help": 0.3, "llmopt validate recipes/quickstart.yaml": 0.5}


def time_once(command: list[str]) -> float:
    """Returns the wall time of one process, in seconds."""
    started = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Runs all commands in turn and prints their medians."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(NUM_RUNS):
        for name, command in COMMANDS.items():
            times[name].append(time_once(command))
    for name, measured in times.items():
        aim = f", aim {AIMS_S[name]:.1f} s" if name in AIMS_S else ""
        print(f"{name}: median {statistics.median(measured):.3f} s, min {min(measured):.3f} s{aim}")


if __name__ == "__main__":
    main()
