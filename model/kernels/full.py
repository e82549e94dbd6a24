"""full: torch's fused causal attention. O(T * T), for one document that no window hides."""

from torch import Tensor
from torch.nn import functional as F

from model.kernels.visibility import Visibility


def full_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, return_lse: bool = False
) -> tuple[Tensor, None]:
    """Attend from q (B, H, T, Dh) to all earlier tokens of k, v (B, K, T, Dh).

    Returns (B, H, T, Dh). torch gives no log-sum-exp here, so learned sink logits become a key (see
    `sinks.prepend_logit`). Scores are scaled by the square root of q's own size.
    """
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), None
