"""Int8 weights: the rounded model against loops, and native steps against the rounded model."""

import ctypes

import numpy as np
import pytest
import torch
from small import VOCAB, build, text
from test_decoding import CASES, steps
from torch import Tensor, nn

from model.cache import RollingKVCache
from model.decoding import Decoder
from model.native.build import refusal
from model.quantization import bytes_per_token, fold_norms, round_weights, to_int8
from model.transformer import Transformer

REFUSAL = refusal("decode", bf16=False)
native_only = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))


def by_loop(matrix: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
    """Round a matrix number by number, in float64; `gain` is the weight of the norm before it."""
    rounded = np.zeros_like(matrix)
    for n, row in enumerate(matrix):
        folded = row if gain is None else row * gain
        scale = max(abs(number) for number in folded) / 127
        for k, number in enumerate(folded):
            rounded[n, k] = 0 if scale == 0 else scale * round(number / scale)
    return rounded


@pytest.mark.parametrize("tied", [False, True])
def test_each_matrix_is_rounded_as_by_hand(tied: bool) -> None:
    """A matrix could be left out, or get the norm of another one."""
    model = build(tie_embeddings=tied, sink_token=True, sink_logits=True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rounded = round_weights(model)
    expected = {name: weight.numpy() for name, weight in before.items()}
    norms = {"output": "norm"}
    for n in range(3):
        norms |= {f"layers.{n}.attention.w{x}": f"layers.{n}.attention_norm" for x in "qkv"}
        norms |= {f"layers.{n}.feed_forward.w{x}": f"layers.{n}.ffn_norm" for x in "13"}
        norms |= {f"layers.{n}.attention.wo": "", f"layers.{n}.feed_forward.w2": ""}
    for name, norm in norms.items():
        gain = expected[f"{norm}.weight"] if norm else None
        expected[f"{name}.weight"] = by_loop(before[f"{name}.weight"].numpy(), gain)
    for norm in set(norms.values()) - {""}:
        expected[f"{norm}.weight"] = np.ones(16)
    actual = rounded.state_dict()
    assert actual.keys() == expected.keys()
    for name, weight in actual.items():
        np.testing.assert_allclose(weight.numpy(), expected[name], rtol=1e-12, err_msg=name)
    assert not rounded.config.tie_embeddings
    for name, weight in model.state_dict().items():  # the model itself stays as it was
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("name", ["mixed", "sinks", "all sinks", "odd sizes"])
def test_folded_norms_are_the_same_function(name: str) -> None:
    """The weight of a norm could be applied twice, not at all, or to the wrong side."""
    model, tokens = build(**CASES[name]).requires_grad_(False), text(20, 2)
    torch.testing.assert_close(fold_norms(model)(tokens), model(tokens), rtol=1e-11, atol=1e-11)


def test_a_weight_is_off_by_half_a_scale_at_most() -> None:
    """Numbers could be cut off instead of rounded, or the largest one could overflow."""
    matrix = torch.randn(50, 37, generator=torch.Generator().manual_seed(0))
    matrix[3] *= 1e-30
    matrix[4] *= 1e30
    numbers, scales = to_int8(matrix)
    assert numbers.dtype == torch.int8 and numbers.abs().amax(1).tolist() == [127] * 50
    error = (numbers.double() * scales.double()[:, None] - matrix.double()).abs()
    assert (error <= 0.501 * scales.double()[:, None]).all()  # fp32 rounds the quotient too


def test_rows_that_are_zero_or_almost() -> None:
    """0 / 0 is NaN, and the scale of a subnormal number may be 0."""
    matrix = torch.zeros(3, 8)
    matrix[1, 2], matrix[2, 5] = 1e-45, -2e-44
    numbers, scales = to_int8(matrix)
    assert not numbers[0].any() and scales[0] == 0
    assert (numbers * scales[:, None]).abs().max() < 1e-43


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_stay_visible(value: float) -> None:
    """A model that diverged would write text as if it had not."""
    matrix = torch.ones(2, 8)
    matrix[1, 2] = value
    numbers, scales = to_int8(matrix)
    rounded = numbers * scales[:, None]
    assert rounded[1].isnan().all() and torch.equal(rounded[0], matrix[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_rounded_in_fp32(dtype: torch.dtype) -> None:
    """A quotient in bf16 has 8 bits: 127 would become 128."""
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    numbers, scales = to_int8(matrix)
    expected, _ = to_int8(matrix.float())
    assert torch.equal(numbers, expected) and scales.dtype == torch.float32
    rounded = round_weights(build(dtype=dtype))
    assert {weight.dtype for weight in rounded.parameters()} == {dtype}


# ------------------------------------------------------------------- native steps


def decoders(model: Transformer, rows: int) -> tuple[Decoder, Decoder]:
    """Return a native decoder with int8 weights, and PyTorch with the rounded model."""
    ours, theirs = (
        Decoder(model, RollingKVCache(model.config, rows, 100), native, "int8")
        for native in (True, False)
    )
    assert ours.reason == "native code: int8 weights on a CPU"
    assert theirs.reason.startswith("PyTorch with weights rounded to int8: ")
    return ours, theirs


@native_only
@pytest.mark.parametrize("rows", [1, 3, 23])
@pytest.mark.parametrize("name", CASES)
def test_native_int8_is_the_rounded_model(name: str, rows: int) -> None:
    """A number, a scale or a norm could be read from another place."""
    model, tokens = build(dtype=torch.float32, **CASES[name]).requires_grad_(False), text(30, rows)
    ours, theirs = decoders(model, rows)
    prompts = tokens[:, :5].tolist()
    pairs = [(ours.prefill(prompts), theirs.prefill(prompts))]
    pairs.append((steps(ours, tokens[:, 5:]), steps(theirs, tokens[:, 5:])))
    # The model without a cache, in float64, is another way to compute the same.
    exact = round_weights(model).double()(tokens)[:, 5:].float()
    pairs.append((pairs[1][0], exact))
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert (pairs[1][0] - model(tokens)[:, 5:]).abs().max() > 1e-3  # it is not the fp32 model


@native_only
def test_native_int8_with_rows_of_zeros_and_of_nan() -> None:
    """A scale of 0 could divide; NaN in one output could spread, or be lost."""
    model = build(dtype=torch.float32, vocab_size=VOCAB).requires_grad_(False)
    model.layers[0].attention.wo.weight.zero_()  # type: ignore[operator, union-attr]
    model.output.weight[7] = 0.0
    model.output.weight[9, 3] = torch.nan
    for decoder in decoders(model, 2):
        logits = steps(decoder, text(10, 2))
        assert (logits[..., 7] == 0).all() and logits[..., 9].isnan().all()
        assert logits[..., [n for n in range(VOCAB) if n != 9]].isfinite().all()


@native_only
def test_native_code_reads_int8() -> None:
    """Panels of fp32 numbers would give the same results, and be no faster."""
    model = build(dtype=torch.float32).requires_grad_(False)
    decoder, _ = decoders(model, 1)
    native = decoder._native
    assert native is not None
    panels = native._model.output
    stored = (ctypes.c_int8 * 4).from_address(panels.numbers)
    column, _ = to_int8(round_weights(model).output.weight)
    assert list(stored) == column[:4, 0].tolist()


def test_bytes_are_those_of_all_matrices() -> None:
    """A matrix that is left out, or the embeddings, of which one row is read."""
    for tied in (False, True):
        model = build(tie_embeddings=tied)
        matrices = [m for m in model.modules() if isinstance(m, nn.Linear)]
        n_weights = sum(m.weight.numel() for m in matrices)
        assert n_weights == 3 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 24) + VOCAB * 16
        n_outputs = 3 * (16 + 8 + 8 + 16 + 24 + 24 + 16) + VOCAB
        assert bytes_per_token(model, "fp32") == 4 * n_weights
        assert bytes_per_token(model, "int8") == n_weights + 4 * n_outputs


def test_pytorch_computes_the_rounded_model_elsewhere() -> None:
    """Without native code, int8 weights could be ignored silently."""
    model = build().requires_grad_(False)  # float64
    decoder = Decoder(model, RollingKVCache(model.config, 2, dtype=torch.float64), None, "int8")
    assert "rounded to int8" in decoder.reason and "float64" in decoder.reason
    tokens: Tensor = text(12, 2)
    torch.testing.assert_close(steps(decoder, tokens), round_weights(model)(tokens))
