"""What this machine has and how fast it multiplies, for rough estimates."""

import time

import numpy as np
import psutil

PROBE_SIZE = 1024
NUM_PROBES = 5


def measure_flops_per_s() -> float:
    """Times float32 matrix products for some tens of milliseconds; the best one counts."""
    a = np.ones((PROBE_SIZE, PROBE_SIZE), dtype=np.float32)
    best_s = float("inf")
    for _ in range(NUM_PROBES):
        started = time.perf_counter()
        a @ a
        best_s = min(best_s, time.perf_counter() - started)
    return 2 * PROBE_SIZE**3 / best_s


def free_ram_bytes() -> int:
    """Returns the memory that new work could use."""
    return int(psutil.virtual_memory().available)
