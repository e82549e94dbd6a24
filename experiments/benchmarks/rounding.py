"""What int8 weights save and cost in a model with drawn weights: bytes, and errors of logits.

Drawn weights have no loss that means anything. `scripts.evaluate --weights fp32 int8` prints what a
trained model loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model import Transformer


@dataclass(frozen=True)
class Rounding:
    """Bytes and errors of one model."""

    model: str
    fp32_bytes: int  # of all matrices, which one token reads
    int8_bytes: int
    difference: float  # of the logits: its root mean square, as a share of that of the fp32 logits

    def __str__(self) -> str:
        return (
            f"Int8 weights of {self.model}: {self.int8_bytes / 1e6:.1f} MB read per token instead "
            f"of {self.fp32_bytes / 1e6:.1f}; logits differ by {self.difference:.2%} (rms)."
        )


def measure_rounding(name: str, model: "Transformer", text: Sequence[Sequence[int]]) -> Rounding:
    """Compare the logits of `text` (B, T) under both formats."""
    import torch

    from model.quantization import bytes_per_token, round_weights

    tokens = torch.tensor(text)
    with torch.inference_mode():
        logits, rounded = model(tokens), round_weights(model)(tokens)
    difference = ((rounded - logits).norm() / logits.norm()).item()
    sizes = bytes_per_token(model, "fp32"), bytes_per_token(model, "int8")
    return Rounding(name, *sizes, difference)
