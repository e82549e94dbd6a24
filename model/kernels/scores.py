"""What `dense`, `blocked` and `sinks` share: scaled queries by key head, and a masked softmax."""

import torch
from torch import Tensor


def grouped(q: Tensor, k: Tensor) -> Tensor:
    """Scale the queries and group them by key head: (B, H, T, Dh) to (B, K, G, T, Dh)."""
    return (q * q.shape[-1] ** -0.5).unflatten(1, (k.shape[1], -1))


def masked_softmax(
    scores: Tensor, mask: Tensor, return_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Softmax over the last dimension of scores, where mask is true. Overwrites `scores`.

    Also returns the log-sum-exp (...) if asked, in fp32 at least. A row without any key is not NaN:
    its weights are equal, and its log-sum-exp is so small that `sinks.merge` gives it no share.
    """
    hidden = torch.finfo(scores.dtype).min  # -inf would make a row without any key NaN
    scores = scores.masked_fill_(~mask, hidden)
    weights = scores.softmax(-1)  # torch sums in fp32 whatever the dtype of `scores`
    if not return_lse:
        return weights, None
    # log(sum(exp(scores))) is score - log(weight) of any key. The largest is the most exact, and
    # needs no copy of all scores in fp32.
    largest = scores.detach().argmax(-1, keepdim=True)
    wide = torch.promote_types(scores.dtype, torch.float32)
    score, weight = (x.gather(-1, largest).squeeze(-1).to(wide) for x in (scores, weights))
    return weights, score - weight.log()
