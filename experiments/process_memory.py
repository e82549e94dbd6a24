"""Memory of processes: how much a process may still allocate, and the most it has allocated."""

import contextlib
import sys
from pathlib import Path

from errors import UserError


def free_bytes() -> int | None:
    """Return the bytes of memory that a process can still get; None if unknown.

    Where the system does not report free memory, all memory of the machine counts as free.
    """
    import torch  # not at the top: it takes a second, and `--help` does not need it

    from training.memory import memory_limit

    limit = memory_limit(torch.device("cpu"))
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return limit
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return free if limit is None else min(free, limit)


def reset_peak() -> int:
    """Reset the peak memory of this process, if the system can; return the bytes held now."""
    with contextlib.suppress(OSError):  # otherwise the peak while importing torch remains
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_bytes() -> int:
    """Return the most bytes this process held in RAM, on Linux since `reset_peak`.

    Raises `UserError` on Windows, which has no such number.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    if sys.platform == "win32":
        raise UserError("peak memory is not measured on Windows: use Linux or macOS")
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
