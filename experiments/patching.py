"""Causal patching: which places of the residual stream carry what one changed token does?

Two texts of equal length are read, the clean one and a corrupted one, in which the source (one or
more tokens) is replaced. The effect is how many bits less likely the corrupted text makes the
answer. Then single places of the corrupted run get their clean value back, and the share of the
effect that this restores is measured. A place is a boundary and a position: boundary 0 is the
embedding, boundary b the output of layer b - 1. All of it in float64.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

if TYPE_CHECKING:
    from model.transformer import Transformer

ROWS = 16  # places that are patched in one pass
CANDIDATES = 48  # places that a hop chooses from; of more, those that restore most alone


class Patching:
    """The residual streams of a clean and a corrupted text, and runs that mix them.

    `model` is in float64, `clean` and `corrupted` are tokens (T,). The answer is predicted after
    the last token.
    """

    def __init__(self, model: "Transformer", clean: Tensor, corrupted: Tensor, answer: int) -> None:
        self.model, self.answer = model, answer
        self._arguments: list[tuple[Any, ...]] = []  # of each layer, after the stream itself
        entering: list[Tensor] = []

        def record(_module: object, inputs: tuple[Any, ...]) -> None:
            entering.append(inputs[0])
            self._arguments.append(inputs[1:])

        hooks = [layer.register_forward_pre_hook(record) for layer in model.layers]
        hooks.append(model.norm.register_forward_pre_hook(lambda _m, i: entering.append(i[0])))
        try:
            with torch.inference_mode():
                model(torch.stack([clean, corrupted]))
        finally:
            for hook in hooks:
                hook.remove()
        front = entering[0].shape[1] - len(clean)  # a sink token is the same in both texts
        self._front = front
        entering[-1] = torch.cat((entering[-2][:, :front], entering[-1]), dim=1)
        self.clean, self.corrupted = ([x[n] for x in entering] for n in range(2))
        self.target = len(clean) - 1
        with torch.inference_mode():
            self.clean_bits, self.corrupted_bits = self._bits(entering[-1][:, -1]).tolist()

    @property
    def effect(self) -> float:
        """The bits by which the corrupted text makes the answer less likely."""
        return self.clean_bits - self.corrupted_bits

    def differs(self, boundary: int) -> list[int]:
        """Return the positions at which the two texts differ in any bit."""
        different = (self.clean[boundary] != self.corrupted[boundary]).any(-1)
        return different[self._front :].nonzero().flatten().tolist()

    @torch.inference_mode()
    def restored(self, boundary: int, positions: Sequence[int]) -> float:
        """Return the share of the effect that these positions of a boundary restore together."""
        x = self.corrupted[boundary].clone()
        at = [position + self._front for position in positions]
        x[at] = self.clean[boundary][at]
        return self._shares(self._through(x[None], boundary)[:, -1])[0]

    def node_shares(self) -> list[list[float]]:
        """Return for each boundary what each position (T) restores alone; 0 where texts agree."""
        shares = [[0.0] * (self.target + 1) for _ in self.clean]
        places = [(b, p) for b in range(len(self.clean)) for p in self.differs(b)]
        last = len(self.clean) - 1
        for boundary, position in tqdm(places, "places", leave=False, disable=None):
            if boundary < last or position == self.target:
                shares[boundary][position] = self.restored(boundary, [position])
        return shares

    def path(
        self, windows: Sequence[int | None], shares: Sequence[Sequence[float]]
    ) -> tuple[list[int], list[float]]:
        """Return the strongest path from the source to the target, found backwards.

        A position for each boundary, from the embedding to the last; and for each boundary the
        share of the effect that is restored if the clean value of its position travels along the
        rest of the path and nowhere else. `windows` are those of the layers, and `shares` what
        `node_shares` returns. Each step takes the position with the largest share, so another path
        may carry more.
        """
        tail, carried = [self.target], [1.0]
        for boundary in range(len(self.clean) - 2, -1, -1):
            window = windows[boundary]
            first = 0 if window is None else max(0, tail[0] - (window - 1))
            sinks = self.model.config.attention_sinks
            candidates = [
                p for p in self.differs(boundary) if first <= p <= tail[0] or p < min(sinks, first)
            ]
            candidates.sort(key=lambda p: -abs(shares[boundary][p]))
            candidates = candidates[:CANDIDATES]
            found = self.along(boundary, candidates, tail)
            best = max(range(len(found)), key=found.__getitem__)
            tail.insert(0, candidates[best])
            carried.insert(0, found[best])
        return tail, carried

    @torch.inference_mode()
    def along(self, boundary: int, positions: Sequence[int], tail: Sequence[int]) -> list[float]:
        """Return what each position restores if its clean value is seen by `tail[0]` only.

        `tail` has a position for each boundary after this one. In each layer only the query at the
        tail's position sees the value that is passed on; all else is as in the corrupted run.
        """
        shares: list[float] = []
        for start in range(0, len(positions), ROWS):
            at = [position + self._front for position in positions[start : start + ROWS]]
            value = self.clean[boundary][at]
            for step, query in enumerate(tail):
                layer = boundary + step
                x = self.corrupted[layer].repeat(len(value), 1, 1)
                x[torch.arange(len(value)), at] = value
                value = self._layer(x, layer)[:, query + self._front]
                at = [query + self._front] * len(value)
            shares += self._shares(value)
        return shares

    def _layer(self, x: Tensor, layer: int) -> Tensor:
        """Pass x (B, T, D) through one layer."""
        output: Tensor = self.model.layers[layer](x, *self._arguments[layer])
        return output

    def _through(self, x: Tensor, boundary: int) -> Tensor:
        """Pass x (B, T, D) from a boundary to the last one."""
        for layer in range(boundary, len(self.clean) - 1):
            x = self._layer(x, layer)
        return x

    def _bits(self, x: Tensor) -> Tensor:
        """Return the log2-probability of the answer from the last boundary at the target (B, D)."""
        logits = self.model.output(self.model.norm(x))
        return logits.log_softmax(-1)[:, self.answer] / math.log(2)

    def _shares(self, x: Tensor) -> list[float]:
        shares: list[float] = ((self._bits(x) - self.corrupted_bits) / self.effect).tolist()
        return shares
