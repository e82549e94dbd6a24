"""Kernels: ways to compute attention. All obey the one rule of `model/window.py`.

    dense     scores every query against every key, then masks   O(T * S)   any positions, caches
    blocked   scores only the blocks that the window touches     O(T * W)   a text of T tokens
    flex      the same blocks in one fused kernel (CUDA)         O(T * W)   a text of T tokens
    full      torch's fused causal attention                     O(T * T)   one document, W >= T
    native    the same blocks in C++ (bf16 on a CPU)             O(T * W)   a text of T tokens

Training, prefill and decoding all call `attend`. What a query may see is one value, `Visibility`.
A kernel is a function of q (B, H, T, Dh), k and v (B, K, S, Dh) and the visibility. It leaves out
sinks and returns the log-sum-exp of its scores. `sinks.merge` needs it to add sinks to the output.
To add a kernel, write such a function, enter it in KERNELS, and let `choose` name it.
"""

from typing import Protocol

import torch
from torch import Tensor

from model.kernels import sinks
from model.kernels.blocked import blocked_attention
from model.kernels.dense import dense_attention
from model.kernels.flex import flex_attention
from model.kernels.full import full_attention
from model.kernels.native import native_attention
from model.kernels.visibility import Visibility
from model.native import LANES, is_enabled
from model.window import Window

__all__ = ["KERNELS", "Kernel", "Visibility", "attend", "attend_with", "choose"]


class Kernel(Protocol):
    """Attend from q (B, H, T, Dh) to k, v (B, K, S, Dh), sinks left out.

    Returns the output (B, H, T, Dh) and, if asked, the log-sum-exp (B, H, T), in fp32 at least.
    """

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, return_lse: bool = False
    ) -> tuple[Tensor, Tensor | None]: ...


KERNELS: dict[str, Kernel] = {
    "dense": dense_attention,
    "blocked": blocked_attention,
    "flex": flex_attention,
    "full": full_attention,
    "native": native_attention,
}


def choose(
    attention: str,
    window: Window,
    n_tokens: int,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    head_dim: int = 0,
    documents: bool = False,
    sink_token: bool = False,
    cached: bool = False,
) -> tuple[str, str]:
    """Name the kernel for one layer over a text of n_tokens, and the reason in words.

    `attention` is the config's setting; `dtype` and `head_dim` are those of the queries.
    `documents`: several documents share a row; `sink_token`: they all see a token in front.
    `cached`: the keys are those of a cache.
    """
    if cached:
        return "dense", "a cache holds its keys in any order"
    if attention in ("dense", "flex"):
        return attention, "the config asks for it"
    hides = window is not None and window < n_tokens
    if hides:
        reason = f"a window of {window:,} in {n_tokens:,} tokens: cost grows with the window"
    else:
        kind = "full attention" if window is None else f"a window of {window:,} hides nothing"
        reason = f"{kind} in {n_tokens:,} tokens" + ", documents kept apart" * documents
    if attention == "auto" and device == "cpu" and _is_native(dtype):
        if head_dim % LANES:
            reason += f"; native needs heads of a multiple of {LANES} numbers"
        elif hides or not (documents and sink_token):
            return "native", reason
    if not hides and not documents:
        return "full", reason
    if not hides:
        return ("flex" if device == "cuda" else "dense"), reason
    if attention == "blocked":
        return "blocked", "the config asks for it"
    return ("flex" if device == "cuda" else "blocked"), reason


def _is_native(dtype: torch.dtype | None) -> bool:
    return is_enabled() and dtype == torch.bfloat16


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    attention: str = "auto",
    *,
    q_sinks: Tensor | None = None,
    sink_logits: Tensor | None = None,
) -> Tensor:
    """Attend with the kernel that `choose` names. Shapes and sinks as in `attend_with`."""
    kernel, _ = choose(
        attention,
        visibility.window,
        k.shape[2],
        device=q.device.type,
        dtype=q.dtype,
        head_dim=q.shape[-1],
        documents=visibility.documents is not None,
        sink_token=_is_native(q.dtype) and visibility.has_sink_token(),
        cached=visibility.key_positions is not None,
    )
    return attend_with(kernel, q, k, v, visibility, q_sinks=q_sinks, sink_logits=sink_logits)


def attend_with(
    kernel: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    *,
    q_sinks: Tensor | None = None,
    sink_logits: Tensor | None = None,
) -> Tensor:
    """Attend with the kernel of this name: q (B, H, T, Dh), k, v (B, K, S, Dh) to (B, H, T, Dh).

    `q_sinks` (B, H, T, Dh) are the queries as they look at sinks; None: q. `sink_logits` (H,) take
    part in each head's softmax and have no value. The output for padding has no meaning.
    """
    compute, visibility = KERNELS[kernel], visibility.without_idle_sinks(k.shape[2])
    with torch.autocast(q.device.type, enabled=False):  # it would copy every score to fp32 and back
        if kernel == "full" and sink_logits is not None:
            out, _ = compute(*sinks.prepend_logit(q, k, v, sink_logits), visibility)
            return sinks.drop_logit(out)
        if kernel == "full" or (not visibility.sinks and sink_logits is None):
            return compute(q, k, v, visibility)[0]
        out, lse = compute(q, k, v, visibility, return_lse=True)
        assert lse is not None
        q_sinks = q if q_sinks is None else q_sinks
        return sinks.merge(out, lse, q_sinks, k, v, visibility, sink_logits)
