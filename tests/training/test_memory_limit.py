"""A run that cannot fit is refused before it starts; a failed allocation is one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from errors import UserError
from training import memory
from training.memory import allocation_errors, format_bytes, memory_limit

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
MESSAGES = [  # of torch 2.9 on CPU (Linux, Windows), CUDA, cuBLAS and MPS
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4300000000 bytes. Error code 12 (Cannot allocate memory)",
    "[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 4300000000 "
    "bytes.",
    "CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "MPS backend out of memory (MPS allocated: 9.0 GB). Tried to allocate 4.00 GiB",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_failed_allocation_is_one_line(message: str) -> None:
    """The user would get a traceback of forty lines, with the cause in the last."""
    with pytest.raises(UserError) as refusal, allocation_errors("a smaller batch"):
        raise RuntimeError(message)
    size = "" if "ALLOC_FAILED" in message else " (an allocation of 4.3 GB failed)"
    assert str(refusal.value) == f"not enough memory{size}: a smaller batch"


def test_real_failures_of_torch_and_numpy() -> None:
    """The libraries could change their messages. No machine has 2^60 bytes."""
    with pytest.raises(UserError, match="not enough memory"), allocation_errors("less"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(UserError, match="not enough memory"), allocation_errors("less"):
        np.zeros(2**60, dtype=np.uint8)


def test_other_errors_pass() -> None:
    """A bug of ours must keep its traceback."""
    with pytest.raises(RuntimeError, match="shapes"), allocation_errors("less"):
        raise RuntimeError("shapes do not fit")


def test_the_limit_is_the_machines_or_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may have 2 GB on a machine of 64 GB: the limit is that of the container."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = memory_limit(CPU)
    assert limit is not None and 0 < limit <= physical
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:cpu:/x\n0::/user/job\n")
    group = tmp_path / "sys/fs/cgroup/user"
    (group / "job").mkdir(parents=True)
    assert list(memory._group_limits(tmp_path)) == []
    (group / "job/memory.max").write_text("max\n")
    (group / "memory.max").write_text("2000000000\n")
    (group.parent / "memory.max").write_text("3000000000\n")
    assert list(memory._group_limits(tmp_path)) == [2_000_000_000, 3_000_000_000]
    monkeypatch.setattr(memory, "_group_limits", lambda root: [1])
    assert memory_limit(CPU) == 1
    monkeypatch.delattr(os, "sysconf")  # Windows
    assert memory_limit(CPU) is None


def test_units() -> None:
    """16,000,000 bytes are 16 MB, 116,000,000,000 are 116 GB."""
    assert format_bytes(16e6) == "16.0 MB" and format_bytes(116e9) == "116.0 GB"


@pytest.mark.parametrize(
    "more",
    [
        ["train.micro_batch_size=1000000000"],
        ["model.n_layers=10000", "model.dim=4096", "model.hidden_dim=16384"],
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_it_starts(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """The text would be prepared for hours, and then the kernel would kill the process without a
    message."""
    assert tiny.start(tmp_path / "run", text, *more) == 2
    printed = capsys.readouterr().err.splitlines()
    errors = [line for line in printed if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0] == printed[-1]
    assert "training needs at least " in errors[0] and "train.micro_batch_size" in errors[0]
    assert not any(line.startswith("tokenizing") for line in printed)


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_an_allocation_that_fails_in_training(tmp_path: Path, text: Path) -> None:
    """The estimate is low, and other processes use memory too: a run that was accepted may fail."""
    line = tiny.words(tmp_path / "run", text, "train.micro_batch_size=20000")
    code = (
        "import resource, sys, torch, run, train\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 500_000_000,) * 2)\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: not enough memory") and "train.micro_batch_size" in last
    assert "Traceback" not in done.stderr
