"""flex: torch's flex_attention, which skips the blocks that the rule hides. O(T * W) on CUDA.

On a CPU it is not fused and computes no gradients. For texts without a cache.
"""

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask
from torch.nn.attention.flex_attention import flex_attention as torch_flex_attention

from model.kernels.visibility import Visibility


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, return_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Attend within a text, from q (B, H, T, Dh) to k, v (B, K, T, Dh), sinks left out.

    Returns (B, H, T, Dh), equal to `dense` up to rounding, and the log-sum-exp (B, H, T) if asked.
    """
    assert visibility.key_positions is None
    if visibility.positions is None and visibility.documents is None:
        mask = plain_block_mask(q.shape[2], visibility, q.device)
    else:
        mask = _block_mask(q.shape[2], visibility, q.device)
    out, auxiliary = _kernel(q.is_cuda)(
        q, k, v, block_mask=mask, enable_gqa=True, return_aux=AuxRequest(lse=return_lse)
    )
    return out, auxiliary.lse if return_lse else None


def _block_mask(length: int, visibility: Visibility, device: torch.device) -> Any:
    """Express the visibility as the block mask of flex_attention."""
    documents = visibility.documents
    with torch.inference_mode(False):  # so that a stored mask can also be used in training
        positions = visibility.query_positions(length, device)
        n_rows = len(positions)

        def rule(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            row = b if n_rows > 1 else 0  # a single row of positions serves all rows
            pair = None if documents is None else (documents[row, query], documents[row, key])
            return visibility.in_window(positions[row, query], positions[row, key], pair)

        rows = n_rows if n_rows > 1 else None
        return create_block_mask(rule, rows, None, length, length, device=device.type)


@lru_cache(maxsize=64)  # one for each kind of layer and each length
def plain_block_mask(length: int, visibility: Visibility, device: torch.device) -> Any:
    """Return the block mask of a text of one document, made once; `visibility` has no tensors."""
    return _block_mask(length, visibility, device)


@cache
def _kernel(fused: bool) -> Any:
    """Return torch's kernel, compiled where it can be fused."""
    return torch.compile(torch_flex_attention) if fused else torch_flex_attention
