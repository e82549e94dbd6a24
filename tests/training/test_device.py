"""Every choice of hardware has a reason; what does not exist or cannot run is refused."""

import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from errors import UserError
from model.native import build
from training import device
from training.device import autocast, choose_device, choose_hardware, choose_precision

CPU = torch.device("cpu")
BF16, FP32 = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Machine:
    """What a machine reports about itself."""

    amx: bool = False
    avx512_bf16: bool = False
    cuda: bool = False
    mps: bool = False
    refusal: str | None = None  # of the native kernels; asked only where they could run

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let PyTorch report this machine."""
        for probe, answer in {
            "cpu._is_amx_tile_supported": self.amx,
            "cpu._is_avx512_bf16_supported": self.avx512_bf16,
            "cuda.is_available": self.cuda,
            "cuda.is_bf16_supported": True,
            "cuda.get_device_name": "GPU of the year",
            "backends.mps.is_available": self.mps,
            "get_num_threads": 2,
        }.items():
            patch.setattr(f"torch.{probe}", lambda answer=answer: answer)

    def native_refusal(self) -> str | None:
        assert self.avx512_bf16, "asked although another choice forbids native kernels"
        return self.refusal


AMX = Machine(amx=True, avx512_bf16=True)
AVX512_BF16 = Machine(avx512_bf16=True)
WITHOUT_COMPILER = Machine(avx512_bf16=True, refusal="no C++ compiler was found")
AVX2 = Machine()
CUDA = Machine(cuda=True)
MPS = Machine(mps=True)
# Settings other than auto -> device, dtype, compiled, native, and their reasons in this order.
SET = "set by the config"
NO_GPU = "cpu (no GPU; 2 threads)"
EAGER = "no (half a minute of compiling pays only in long runs without native kernels)"
NATIVE = "yes (C++ kernels built for this processor)"
SLOW_BF16 = "float32 (this CPU does not multiply bf16 faster)"
NEED_BF16 = "no (native kernels compute in bf16, and the precision is float32)"
FAST_BF16 = "bfloat16 (AVX512-BF16 multiplies bf16 faster)"
FUSED = "yes (fuses the operations between the matrix products)"
CHOICES = [
    (AMX, {}, ("cpu", BF16, False, True),
     (NO_GPU, "bfloat16 (AMX multiplies bf16 faster)", EAGER, NATIVE)),
    (AVX512_BF16, {}, ("cpu", BF16, False, True), (NO_GPU, FAST_BF16, EAGER, NATIVE)),
    (AVX512_BF16, {"native": True}, ("cpu", BF16, False, True),
     (NO_GPU, FAST_BF16, EAGER, f"yes ({SET})")),
    (AVX512_BF16, {"native": False}, ("cpu", BF16, False, False),
     (NO_GPU, FAST_BF16, EAGER, f"no ({SET})")),
    (AVX512_BF16, {"compiled": True}, ("cpu", BF16, True, False),
     (NO_GPU, FAST_BF16, f"yes ({SET})",
      "no (compile is on, and torch.compile cannot compile them)")),
    (AVX512_BF16, {"precision": "fp32"}, ("cpu", FP32, False, False),
     (NO_GPU, f"float32 ({SET})", EAGER, NEED_BF16)),
    (WITHOUT_COMPILER, {}, ("cpu", BF16, False, False),
     (NO_GPU, FAST_BF16, EAGER, "no (no C++ compiler was found)")),
    (AVX2, {}, ("cpu", FP32, False, False), (NO_GPU, SLOW_BF16, EAGER, NEED_BF16)),
    (AVX2, {"device": "cpu", "compiled": False}, ("cpu", FP32, False, False),
     (f"cpu ({SET})", SLOW_BF16, f"no ({SET})", NEED_BF16)),
    (CUDA, {}, ("cuda", BF16, True, False),
     ("cuda (GPU of the year)", "bfloat16 (this GPU multiplies bf16 faster)", FUSED,
      "no (compile is on, and torch.compile cannot compile them)")),
    (CUDA, {"compiled": False}, ("cuda", BF16, False, False),
     ("cuda (GPU of the year)", "bfloat16 (this GPU multiplies bf16 faster)", f"no ({SET})",
      "no (native kernels run on a CPU only, and this is cuda)")),
    (CUDA, {"device": "cpu"}, ("cpu", FP32, False, False),
     (f"cpu ({SET})", SLOW_BF16, EAGER, NEED_BF16)),
    (MPS, {}, ("mps", FP32, False, False),
     ("mps (Apple GPU)", "float32 (mps (untested) does not multiply bf16 faster)",
      "no (untested on mps)",
      "no (native kernels run on a CPU only, and this is mps)")),
    (MPS, {"precision": "bf16"}, ("mps", BF16, False, False),
     ("mps (Apple GPU)", f"bfloat16 ({SET})",
      "no (untested on mps)",
      "no (native kernels run on a CPU only, and this is mps)")),
]  # fmt: skip
AUTO: dict[str, Any] = dict.fromkeys(("device", "precision", "compiled", "native"), "auto")


@pytest.mark.parametrize(("machine", "settings", "expected", "reasons"), CHOICES)
def test_choices(
    machine: Machine,
    settings: dict[str, Any],
    expected: tuple[str, torch.dtype, bool, bool],
    reasons: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each choice must follow from what the machine reports and from the setting, and give the
    right reason."""
    machine.install(monkeypatch)
    chosen = choose_hardware(**{**AUTO, **settings}, native_refusal=machine.native_refusal)
    assert (chosen.device.type, chosen.dtype, chosen.compiled, chosen.native) == expected
    assert tuple(chosen.reasons.values()) == reasons
    assert list(chosen.reasons) == ["device", "precision", "compile", "native"]


@pytest.mark.parametrize(
    ("machine", "settings", "message"),
    [
        (AVX512_BF16, {"compiled": True}, "compile is on, and .*"),
        (
            AVX512_BF16,
            {"precision": "fp32"},
            "native kernels compute in bf16, and the precision is float32",
        ),
        (WITHOUT_COMPILER, {}, "no C.. compiler was found"),
        (CUDA, {"compiled": False}, "native kernels run on a CPU only, and this is cuda"),
    ],
)
def test_native_kernels_that_were_asked_for_run_or_are_refused(
    machine: Machine, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`native: true` could be ignored."""
    machine.install(monkeypatch)
    asked = {**AUTO, **settings, "native": True}
    with pytest.raises(UserError, match=f"^native is true, but {message}: use auto or false"):
        choose_hardware(**asked, native_refusal=machine.native_refusal)


def test_a_device_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requested device could be replaced by another; of two GPUs, auto must take CUDA's."""
    AVX2.install(monkeypatch)
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"^device is {name}, .*use auto or cpu"):
            choose_device(name)
    Machine(cuda=True, mps=True).install(monkeypatch)
    assert choose_device("auto")[0].type == "cuda"
    assert choose_device("mps") == (torch.device("mps"), SET)


def test_a_gpu_without_bf16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every GPU could be trusted with bf16."""
    CUDA.install(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: False)
    assert choose_precision("auto", torch.device("cuda"))[0] is FP32


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


def test_a_native_kernel_without_a_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An incomplete installation must train without the kernel, not fail."""
    monkeypatch.setattr(build.sys, "platform", "linux")
    assert build.refusal("nothing", bf16=False) == "nothing.cpp is missing"
