"""Every choice of hardware has a reason; a device that does not exist is refused."""

import contextlib

import pytest
import torch

from errors import UserError
from training import device
from training.device import autocast, choose_compile, choose_device, choose_precision

CPU = torch.device("cpu")


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto must take the fastest device; a requested device must not be replaced by another."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    chosen, reason = choose_device("auto")
    assert chosen == CPU and reason.startswith("no GPU; ")
    assert choose_device("cpu") == (CPU, "set by the config")
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"^device is {name}, .*use auto or cpu"):
            choose_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == (torch.device("mps"), "Apple GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU of the year")
    assert choose_device("auto") == (torch.device("cuda"), "GPU of the year")


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 must be chosen by what the hardware reports, not by a measurement."""
    assert choose_precision("bf16", CPU)[0] is torch.bfloat16
    assert choose_precision("fp32", CPU)[0] is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_precision("auto", CPU) == (torch.bfloat16, "AMX multiplies bf16 faster")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_precision("auto", CPU)[1].startswith("AVX512-BF16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_precision("auto", CPU) == (
        torch.float32,
        "this CPU does not multiply bf16 faster",
    )
    assert choose_precision("auto", torch.device("mps"))[0] is torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_precision("auto", torch.device("cuda"))[0] is torch.bfloat16


def test_compile() -> None:
    """`compile: true` or `false` could be ignored; half a minute could be spent without any
    gain."""
    assert choose_compile(True, CPU)[0] and not choose_compile(False, torch.device("cuda"))[0]
    assert choose_compile("auto", torch.device("cuda"))[0]
    chosen, reason = choose_compile("auto", CPU)
    assert not chosen and "makes nothing faster" in reason


def test_autocast_computes_in_the_dtype_and_keeps_the_weights() -> None:
    """precision: bf16 could compute in fp32, or weights could lose bits."""
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU, torch.bfloat16):
        assert layer(torch.ones(1, 4)).dtype is torch.bfloat16
    assert layer.weight.dtype is torch.float32
    assert isinstance(autocast(CPU, torch.float32), contextlib.nullcontext)


def test_keeping_memory_and_measuring_do_not_fail() -> None:
    """Optional functions must not end a run on a machine without them."""
    device.keep_freed_memory()
    assert device.matmul_flops_per_s(CPU, torch.float32, 64) > 0
