"""Memory: the limit of a device, and errors of allocations.

A failed allocation is reported in one line instead of a traceback:

    with allocation_errors("make the batch smaller"):
        ...

raises `UserError`: not enough memory (an allocation of 4.3 GB failed): make the batch smaller
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from errors import UserError

# The allocators of CPU, CUDA and MPS raise RuntimeError, each with another message.
_FAILED = re.compile(
    r"(can't|cannot) allocate memory|not enough memory|out of memory|bad_alloc|ALLOC_FAILED",
    re.IGNORECASE,
)
TRAINING_REMEDY = (
    "make train.micro_batch_size smaller (a larger train.grad_accum_steps keeps the updates the "
    "same), data.seq_len shorter, train.eval_batch_size smaller or the model smaller (model.dim, "
    "model.n_layers)"
)
_SIZE = re.compile(r"allocate ([\d.]+) (bytes|[KMGT]iB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@contextmanager
def allocation_errors(remedy: str) -> Iterator[None]:
    """Raise `UserError` that ends in `remedy` if an allocation fails in the block.

    All other exceptions pass through.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not _FAILED.search(str(error)):
            raise
        size = _SIZE.search(str(error))
        number = float(size[1]) * _UNITS[size[2]] if size else 0.0
        failed = f" (an allocation of {format_bytes(number)} failed)" if size else ""
        raise UserError(f"not enough memory{failed}: {remedy}") from None


def memory_limit(device: torch.device) -> int | None:
    """Return the bytes that this process can have on `device` at most; None if unknown.

    On a GPU: the free memory. Otherwise: the memory of the machine, or the limit of the process's
    control group (containers, Slurm) if that is lower.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no os.sysconf
        return None
    return min([physical, *_group_limits(Path("/"))])


def refuse_too_large(total: int, activations: int, device: torch.device) -> None:
    """Raise `UserError` if training that needs `total` bytes cannot fit in memory.

    The estimate is low: it leaves out the temporary tensors of each operation. So a run that is
    refused cannot fit, and a run that is accepted may still fail.
    """
    limit = memory_limit(device)
    if limit is None or total <= limit:
        return
    raise UserError(
        f"training needs at least {format_bytes(total)} of memory "
        f"({format_bytes(total - activations)} for weights, gradients and moments, "
        f"{format_bytes(activations)} for activations), but {device.type} has "
        f"{format_bytes(limit)}: {TRAINING_REMEDY}"
    )


def format_bytes(size: float) -> str:
    """Write a number of bytes in a unit of convenient size."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's control group and of the groups above it (Linux, v2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if not line.startswith("0::"):
            continue
        group = Path(line.removeprefix("0::/"))
        for folder in (group, *group.parents):
            try:
                text = (root / "sys/fs/cgroup" / folder / "memory.max").read_text().strip()
            except OSError:  # no limit at this level
                continue
            if text.isdecimal():  # otherwise "max"
                yield int(text)
