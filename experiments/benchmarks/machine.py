"""The machine, and its rate of matrix products: the yardstick beside which speeds are reported."""

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.benchmarks.timing import Reading, timed

if TYPE_CHECKING:  # torch is imported only where something is computed
    import torch

ROOT = Path(__file__).resolve().parents[2]
PRODUCT_SIZE = 2048  # rows and columns of the matrices


@dataclass(frozen=True)
class Machine:
    """Where the numbers were measured, and with which code."""

    processor: str
    instructions: list[str]  # of AMX, AVX512-BF16, AVX512, AVX2: those that torch finds
    cores: int  # that this process may use
    threads: int  # that torch uses
    torch: str
    commit: str | None  # of Breeze; None outside a git repository

    def __str__(self) -> str:
        return (
            f"{self.processor} ({', '.join(self.instructions) or 'no AVX2'}), {self.cores} cores, "
            f"{self.threads} threads, torch {self.torch}, commit {self.commit or 'unknown'}"
        )


def describe_machine() -> Machine:
    """Describe this machine and the commit of this code."""
    import os

    import torch

    has = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
        "AVX512": torch.cpu._is_avx512_supported(),
        "AVX2": torch.cpu._is_avx2_supported(),
    }
    affinity = getattr(os, "sched_getaffinity", None)
    return Machine(
        processor=_processor(),
        instructions=[name for name, found in has.items() if found],
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        commit=_commit(),
    )


def products() -> dict[str, Reading]:
    """Return readings of the matrix product in fp32 and in bf16; `product_rate` reads them."""
    import torch

    return {"fp32": _product(torch.float32), "bf16": _product(torch.bfloat16)}


def product_rate(seconds: float) -> float:
    """Return the FLOP/s of a product that took `seconds`."""
    return 2 * PRODUCT_SIZE**3 / seconds


def _product(dtype: "torch.dtype") -> Reading:
    import torch

    a = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype)
    out = torch.empty_like(a)
    return timed(lambda: torch.mm(a, a, out=out))


def _processor() -> str:
    """Return the processor's name: of Linux from /proc/cpuinfo, otherwise what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the short hash of HEAD, and whether files differ from it."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        except OSError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit} with local changes" if commit and changed else commit
