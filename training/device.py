"""What this machine offers: device, precision, compiler. Each choice comes with its reason.

Choices depend on what the hardware says it can do, never on a measured time: the same config on the
same machine must always train the same way.
"""

import ctypes
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from errors import UserError


def choose_device(wanted: str) -> tuple[torch.device, str]:
    """Pick the device for `auto | cpu | cuda | mps`, and say why."""
    if wanted != "auto":
        backend = {"cpu": torch.cpu, "cuda": torch.cuda, "mps": torch.backends.mps}[wanted]
        if not backend.is_available():
            raise UserError(f"train.device is {wanted}, but PyTorch finds none: use auto or cpu")
        return torch.device(wanted), "the config asks for it"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return torch.device("mps"), "Apple GPU"
    return torch.device("cpu"), f"no GPU; {torch.get_num_threads()} threads"


def choose_precision(wanted: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Pick the dtype of matrix products for `auto | fp32 | bf16`, and say why."""
    if wanted != "auto":
        return (torch.bfloat16 if wanted == "bf16" else torch.float32), "the config asks for it"
    if device.type == "cuda":
        fast, has = torch.cuda.is_bf16_supported(), "this GPU"
    elif device.type == "cpu":
        amx, avx = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
        fast, has = amx or avx, "AMX" if amx else "AVX512-BF16" if avx else "this CPU"
    else:
        fast, has = False, f"{device.type} (untested)"
    if fast:
        return torch.bfloat16, f"{has} multiplies bf16 faster"
    return torch.float32, f"{has} gains nothing from bf16"


def choose_compile(wanted: bool | str, device: torch.device) -> tuple[bool, str]:
    """Decide for `auto | true | false` whether to compile the blocks, and say why."""
    if isinstance(wanted, bool):
        return wanted, "the config asks for it"
    if device.type == "cuda":
        return True, "it fuses what lies between the matrix products"
    return False, "on this kind of device it takes half a minute and wins nothing"


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Compute matrix products in `dtype`; weights and sums stay fp32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back to the kernel after each tensor.

    Without it, activations are page-faulted in anew at every step. Does nothing on other systems.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl has none
            trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
            mallopt(trim_threshold, largest)
            mallopt(mmap_threshold, largest)


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """Measure what a plain matrix product reaches here, in FLOP/s: the 100% of MFU."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # reading a value waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
