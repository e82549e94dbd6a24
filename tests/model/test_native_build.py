"""model/native/build.py: exceptions of C++, and the decoding step on processors of other kinds."""

import ctypes
from functools import partial
from typing import Any

import pytest
import torch
from small import build as build_model
from small import text

from model.cache import RollingKVCache
from model.decoding import Decoder
from model.kernels.native import _Call, _Gradients
from model.native import build

INT64 = ctypes.c_int64
BF16 = build.refusal("attention", "layers", "loss")
needs_bf16 = pytest.mark.skipif(BF16 is not None, reason=str(BF16))
FP32 = build.refusal("decode", bf16=False)


@needs_bf16
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_a_thread_cannot_get(threads: int) -> None:
    """An exception that left a thread, or the function, would end the process without a word."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(RuntimeError, match=r"^cross_entropy in loss.cpp failed: .*bad_alloc"):
            # Each thread needs memory for a row: more than a processor can address.
            build.call("loss", "cross_entropy", None, None, None, INT64(8), INT64(2**50),
                       ctypes.c_float(1))  # fmt: skip
    finally:
        torch.set_num_threads(before)


@needs_bf16
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_memory_that_attention_cannot_get(name: str) -> None:
    """Keys are copied before the first thread starts; a null pointer would be written to."""
    first = torch.zeros(32, dtype=torch.int32)
    call = _Call(B=1, T=32, H=1, K=1, E=2**50, first=first.data_ptr())
    arguments: list[Any] = [ctypes.byref(call), ctypes.byref(_Gradients())]
    with pytest.raises(RuntimeError, match=f"^attention_{name} in attention.cpp failed: .*bad_all"):
        build.call("attention", f"attention_{name}", *arguments[: 1 + (name == "backward")])


@needs_bf16
def test_calls_after_a_failure() -> None:
    """The text of a failure could stay, and every later call would fail."""
    test_memory_that_a_thread_cannot_get(1)
    logits, targets, losses = torch.zeros(1, 7).bfloat16(), torch.zeros(1).long(), torch.empty(1)
    pointers = map(build.pointer, (logits, targets, losses))
    build.call("loss", "cross_entropy", *pointers, INT64(1), INT64(7), ctypes.c_float(1))
    assert losses.item() == pytest.approx(torch.tensor(7.0).log().item())


@pytest.mark.skipif(FP32 is not None, reason=str(FP32))
@pytest.mark.parametrize(("processor", "lanes"), [("x86-64-v3", 8), ("x86-64-v2", 4)])
@pytest.mark.parametrize("head_dim", [4, 22, 64])
def test_decoding_on_older_processors(
    processor: str, lanes: int, head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of AVX2 and SSE are shorter: outputs could be packed or summed in another order."""
    have = torch.backends.cpu.get_cpu_capability()
    if have not in ("AVX2", "AVX512"):
        pytest.skip(f"this processor has {have}")
    monkeypatch.setattr(build, "load", partial(build.load, processor=processor))
    assert build.load("decode").lanes() == lanes
    shape: dict[str, Any] = {
        "sliding_window": (3, None, 7), "attention_sinks": 2, "sink_logits": True,
        "head_dim": head_dim, "dim": 50, "hidden_dim": 33,
    }  # fmt: skip
    model = build_model(dtype=torch.float32, **shape).requires_grad_(False)
    expected = build_model(**shape).requires_grad_(False)
    for rows in (1, 3, 8, 13):
        tokens = text(40, rows)
        decoder = Decoder(model, RollingKVCache(model.config, rows, 50), native=True)
        logits = [decoder.prefill(tokens[:, :5].tolist())]
        logits += [decoder.step(column).clone() for column in tokens[:, 5:].T]
        actual = torch.stack(logits, dim=1)
        exact = expected(tokens)[:, 4:].float()
        torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-4)
