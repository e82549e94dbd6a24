"""Choose device, precision, compilation and native kernels for this machine, each with a reason.

A choice depends on what the machine reports about itself, native kernels also on its C++ compiler,
and never on a measured time. So the same config on the same machine trains in the same way.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from errors import UserError


@dataclass(frozen=True)
class Hardware:
    """Device, dtype, compilation, native kernels; `reasons` explains each choice in words."""

    device: torch.device
    dtype: torch.dtype  # of the matrix products
    compiled: bool
    native: bool  # the C++ kernels of model/native
    reasons: dict[str, str]


def choose_hardware(
    device: str,
    precision: str,
    compiled: bool | str,
    native: bool | str,
    native_refusal: Callable[[], str | None],
) -> Hardware:
    """Make the choices from the values of the settings `device`, `precision`, `compile`, `native`.

    `native_refusal` is that of `choose_native`. Raises `UserError` if the device does not exist, or
    if `native` is True and native kernels cannot run.
    """
    chosen, device_reason = choose_device(device)
    dtype, dtype_reason = choose_precision(precision, chosen)
    is_compiled, compile_reason = choose_compile(compiled, chosen)
    is_native, native_reason = choose_native(native, chosen, dtype, is_compiled, native_refusal)
    reasons = {
        "device": f"{chosen.type} ({device_reason})",
        "precision": f"{str(dtype).removeprefix('torch.')} ({dtype_reason})",
        "compile": f"{'yes' if is_compiled else 'no'} ({compile_reason})",
        "native": f"{'yes' if is_native else 'no'} ({native_reason})",
    }
    return Hardware(chosen, dtype, is_compiled, is_native, reasons)


def choose_device(setting: str) -> tuple[torch.device, str]:
    """Choose the device for `auto | cpu | cuda | mps`; returns it and the reason.

    Raises `UserError` if the machine has no such device.
    """
    if setting != "auto":
        backend = {"cpu": torch.cpu, "cuda": torch.cuda, "mps": torch.backends.mps}[setting]
        if not backend.is_available():
            raise UserError(
                f"device is {setting}, but PyTorch finds none: use auto or cpu", "device"
            )
        return torch.device(setting), "set by the config"
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return torch.device("mps"), "Apple GPU"
    return torch.device("cpu"), f"no GPU; {torch.get_num_threads()} threads"


def choose_precision(setting: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Choose the dtype of matrix products for `auto | fp32 | bf16`; returns it and the reason."""
    if setting != "auto":
        return (torch.bfloat16 if setting == "bf16" else torch.float32), "set by the config"
    if device.type == "cuda":
        is_faster, hardware = torch.cuda.is_bf16_supported(), "this GPU"
    elif device.type == "cpu":
        amx, avx = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
        is_faster, hardware = amx or avx, "AMX" if amx else "AVX512-BF16" if avx else "this CPU"
    else:
        is_faster, hardware = False, f"{device.type} (untested)"
    if is_faster:
        return torch.bfloat16, f"{hardware} multiplies bf16 faster"
    return torch.float32, f"{hardware} does not multiply bf16 faster"


def choose_compile(setting: bool | str, device: torch.device) -> tuple[bool, str]:
    """Choose for `auto | true | false` whether to compile the blocks; returns it and the reason.

    On a CPU `auto` never compiles: it gains less than native kernels where these run, and elsewhere
    it saves more time than it takes only in long runs (docs/speed.md has the numbers). It also
    needs a C++ compiler and Python's headers.
    """
    if isinstance(setting, bool):
        return setting, "set by the config"
    if device.type == "cuda":
        return True, "fuses the operations between the matrix products"
    if device.type == "cpu":
        return False, "half a minute of compiling pays only in long runs without native kernels"
    return False, f"untested on {device.type}"


def choose_native(
    setting: bool | str,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
    refusal: Callable[[], str | None],
) -> tuple[bool, str]:
    """Choose for `auto | true | false` whether to use native kernels; returns it and the reason.

    `refusal` returns why this machine cannot run them, or None if it can. It may build them, so it
    is called only if the other choices allow native kernels. Raises `UserError` if `setting` is
    True and they cannot run.
    """
    if setting is False:
        return False, "set by the config"
    obstacle: str | None
    if compiled:
        obstacle = "compile is on, and torch.compile cannot compile them"
    elif device.type != "cpu":
        obstacle = f"native kernels run on a CPU only, and this is {device.type}"
    elif dtype != torch.bfloat16:
        name = str(dtype).removeprefix("torch.")
        obstacle = f"native kernels compute in bf16, and the precision is {name}"
    else:
        obstacle = refusal()
    if obstacle is None:
        built = "C++ kernels built for this processor"
        return True, "set by the config" if setting is True else built
    if setting is True:
        raise UserError(f"native is true, but {obstacle}: use auto or false", "native")
    return False, obstacle


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return a context that computes matrix products in `dtype`; weights and sums stay fp32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel after each tensor.

    Otherwise each step maps the memory of its activations again, page by page. Does nothing on
    systems without glibc.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl does not have it
            trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
            mallopt(trim_threshold, largest)
            mallopt(mmap_threshold, largest)


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """Measure the rate of a plain matrix product in FLOP/s: 100% of the MFU."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # reading a value waits for the device
        seconds = max(time.perf_counter() - start, 1e-9)  # a coarse clock may stand still
        best = max(best, 2 * size**3 / seconds)
    return best
