"""From logits to a token: repetition penalty, temperature, top-k, top-p, min-p. Pure functions.

They apply in this order, each to the tokens that are left by those before it, as in most samplers.
Sources: penalty, CTRL (arXiv 1909.05858, section 4.1); top-p, arXiv 1904.09751, section 3.1; min-p,
arXiv 2407.01082, section 3.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from errors import UserError

FIRST_CANDIDATES = 256  # top-p sorts so many tokens, and more only if these do not suffice

STEPS_AT_ONCE = 64  # the random numbers of so many steps are computed by one call


@dataclass(frozen=True)
class Sampling:
    """How to draw a token. Raises `UserError` for a value outside its range.

    temperature         0: always the most likely token; 1: the model's own distribution
    top_k               keep the k most likely tokens; None: all
    top_p               keep the fewest most likely tokens whose probabilities sum to this; (0, 1]
    min_p               keep tokens with this share of the largest probability, or more; [0, 1)
    repetition_penalty  above 1: tokens that occurred before become less likely; 1: off
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        rules = [
            ("temperature", 0.0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more, or none for all tokens"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", 0.0 <= self.min_p < 1.0, "at least 0, below 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100.0, "0.01 to 100"),
        ]
        for name, is_valid, allowed in rules:
            if not is_valid:
                raise UserError(f"{name} is {getattr(self, name)}: it must be {allowed}", name)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken: temperature 0, or too close for fp32."""
        return self.temperature < 1e-30


def choose(
    logits: Tensor, sampling: Sampling, uniforms: Tensor, occurred: Tensor | None = None
) -> Tensor:
    """Choose a token for each row of logits (B, V): (B,) int64.

    `uniforms` are as in `draw`, `occurred` as in `probabilities`. Greedy sampling ignores the
    numbers, and of equal logits it takes the first. Raises `UserError` if logits are NaN.
    """
    if not sampling.is_greedy:
        return draw(probabilities(logits, sampling, occurred), uniforms)
    logits = _penalise(logits.float(), sampling, occurred)
    if logits.device.type != "cpu":
        return logits.argmax(-1)
    rows = logits.detach().numpy()
    tokens = rows.argmax(-1)  # 10 times as fast as torch's; NaN counts as the largest
    _refuse_nan(np.isnan(rows[np.arange(len(rows)), tokens]).any())
    return torch.from_numpy(tokens)


def probabilities(logits: Tensor, sampling: Sampling, occurred: Tensor | None = None) -> Tensor:
    """Turn logits (B, V) into the probabilities (B, V) to draw from.

    `occurred` (B, V) bool marks the tokens that the repetition penalty makes less likely.
    """
    logits = _penalise(logits.float(), sampling, occurred)
    if sampling.is_greedy:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    # The largest logit is subtracted first: a tiny temperature would make it infinite.
    logits = (logits - logits.amax(-1, keepdim=True)) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        weakest = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < weakest, -torch.inf)
    if sampling.top_p < 1.0:
        logits = logits.masked_fill(~_nucleus(logits.softmax(-1), sampling), -torch.inf)
    probs = logits.softmax(-1)
    if sampling.min_p > 0.0:
        probs = probs.masked_fill(probs < sampling.min_p * probs.amax(-1, keepdim=True), 0.0)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def _penalise(logits: Tensor, sampling: Sampling, occurred: Tensor | None) -> Tensor:
    """Lower the logits (B, V) of the tokens that occurred."""
    penalty = sampling.repetition_penalty
    if occurred is None or penalty == 1.0:
        return logits
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(occurred, lowered, logits)


def _nucleus(probs: Tensor, sampling: Sampling) -> Tensor:
    """Mark the tokens (B, V) that top-p keeps: the fewest, most likely first, that sum to it."""
    size = probs.shape[-1]
    n = min(sampling.top_k or FIRST_CANDIDATES, size)
    while True:
        ordered, order = probs.topk(n, dim=-1)
        sums = ordered.cumsum(-1)
        if n == size or bool((sums[:, -1] >= sampling.top_p).all()):
            break
        n = min(4 * n, size)
    kept = sums - ordered < sampling.top_p  # the probabilities before a token sum to less
    kept[:, 0] = True  # even if top_p rounds to 0 in fp32
    return torch.zeros_like(probs, dtype=torch.bool).scatter_(1, order, kept)


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token for each row of probs (B, V) by inverting its cumulative distribution.

    `uniforms` (B,) float64 are numbers in [0, 1), one a row; returns (B,) int64 on their device. A
    token without probability is never drawn. Raises `UserError` if a probability is NaN.
    """
    sums = probs.to(uniforms.device, torch.float64).cumsum(-1)
    # `uniform` returns numbers below 1, so the target is below the last sum: a token always exists.
    target = uniforms[:, None] * sums[:, -1:]
    _refuse_nan(bool(target.isnan().any()))
    return torch.searchsorted(sums, target, right=True).squeeze(1)


def _refuse_nan(found: bool) -> None:
    if found:
        raise UserError(
            "the model computes NaN, as after a training that diverged: use an earlier checkpoint"
        )


def uniform(seed: int, rows: Tensor, step: int | Tensor) -> Tensor:
    """Return a random number in [0, 1) for each row of this step: (B,) float64.

    `rows` (B,) int64 are the numbers of the random streams. The result is a hash of (seed, row,
    step), computed for all rows at once (a counter-based generator: Salmon et al. 2011, "Parallel
    random numbers: as easy as 1, 2, 3"). So the text of a row does not depend on other rows. Rows
    (B, 1) and steps (N,) give the numbers (B, N) of N steps.
    """
    bits = _mix(_mix(torch.full_like(rows, _wrap(seed))) + rows)
    bits = _mix(bits + step)
    # The upper 52 bits. With 53, the product with a sum near 1 could round up to that sum.
    return _shift(bits, 12).double() * 2.0**-52


class RandomStreams:
    """The random numbers of rows 0 to B - 1 by step, as `uniform` defines them.

    Many steps are computed at once, because one call costs as much as for a single step.
    """

    def __init__(self, seed: int, n_rows: int) -> None:
        self._seed, self._rows = seed, torch.arange(n_rows)[:, None]
        self._first, self._numbers = 0, torch.empty(n_rows, 0, dtype=torch.float64)

    def at(self, step: int, n_steps: int = 1) -> Tensor:
        """Return the numbers (B, n) of n steps, from `step`."""
        begin = step - self._first
        if begin < 0 or begin + n_steps > self._numbers.shape[1]:
            steps = torch.arange(step, step + max(STEPS_AT_ONCE, n_steps))
            self._first, self._numbers = step, uniform(self._seed, self._rows, steps)
            begin = 0
        return self._numbers[:, begin : begin + n_steps]


def _mix(bits: Tensor) -> Tensor:
    """Hash 64-bit integers: the step and finalizer of SplitMix64 (Steele et al. 2014, figure 16).

    Sums and products are modulo 2^64.
    """
    bits = bits + _wrap(0x9E3779B97F4A7C15)
    bits = (bits ^ _shift(bits, 30)) * _wrap(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift(bits, 27)) * _wrap(0x94D049BB133111EB)
    return bits ^ _shift(bits, 31)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right as unsigned integers; torch's own shift repeats the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _wrap(number: int) -> int:
    """Reduce an integer modulo 2^64, as torch's signed 64-bit integers do."""
    return (number + 2**63) % 2**64 - 2**63
