"""The model under proof, and how what it gives is compared.

A difference is a number: 0 where two things are the same, infinity where something is plainly
wrong (not a number, another shape, a broken promise).
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from checks import oracle
from errors import UserError
from model.cache import RollingKVCache
from model.transformer import Transformer

WIDEST = 640  # W + n: what is wider would take minutes
LONGEST = 2048  # tokens of a text
SQUARE = 1024  # tokens of a text of which every pair is looked at


class Subject:
    """A model in float64, with texts, caches and twins of its size.

    All lengths follow from W, its widest window, and n, the number of its sinks. Raises `UserError`
    where they are too large to be proved in seconds.
    """

    def __init__(self, model: Transformer, seed: int = 0) -> None:
        self.config = model.config
        self.model = copy.deepcopy(model).double().requires_grad_(True)
        self.kernels = ["dense", "blocked"]
        self._twins: dict[str, Twin] = {}
        if self.config.attention == "flex":  # it gives no gradients on a CPU: watched from outside
            self.kernels.append("flex")
            self.model = self.twin(attention="auto")
            self.config = self.model.config
        self.windows = oracle.stack(self.config)
        self.layers = [(window, oracle.kept(self.config, window)) for window in self.windows]
        self.kinds = list(dict.fromkeys(self.layers))
        self.finite = [window for window in self.windows if window is not None]
        self.width = max(self.finite, default=8)  # without a window any length will do
        self.sinks = max(sinks for _, sinks in self.layers)
        if self.width + self.sinks > WIDEST:
            raise UserError(
                f"a window of {self.width:,} keys and {self.sinks:,} sinks: the proofs take texts "
                f"of ten windows, and go up to {WIDEST} keys"
            )
        # Past the window; and past the reach through all layers, where SQUARE is.
        self.past = self.sinks + self.width + min(self.width + 3, 128)
        reach = 1 + sum(window - 1 for window in self.finite)
        self.stretch = max(16, self.past, min(self.sinks + reach + 4, SQUARE))
        self._draw = torch.Generator().manual_seed(seed)

    def text(self, length: int, rows: int = 1) -> Tensor:
        """Random tokens (rows, length)."""
        return torch.randint(self.config.vocab_size, (rows, length), generator=self._draw)

    def noise(self, *shape: int) -> Tensor:
        """Random numbers."""
        return torch.randn(shape, generator=self._draw, dtype=torch.float64)

    def order(self, length: int) -> Tensor:
        """0..length-1, shuffled."""
        return torch.randperm(length, generator=self._draw)

    def twin(self, **changes: Any) -> Transformer:
        """The same weights under a config with `changes`. Not to be written to."""
        if str(changes) not in self._twins:
            with torch.device("meta"):
                twin = Twin(replace(self.config, **changes))
            state = self.model.state_dict()
            twin.load_state_dict({name: state[name] for name in twin.state_dict()}, assign=True)
            if twin.config.tie_embeddings:
                twin.output.weight = twin.tok_embeddings.weight
            self._twins[str(changes)] = twin.requires_grad_(True)
        return self._twins[str(changes)]

    def cache(self, rows: int = 1, model: Transformer | None = None, **more: Any) -> RollingKVCache:
        """An empty cache, with room for all that a proof feeds it."""
        how: dict[str, Any] = {"capacity": max(LONGEST, 11 * self.width), "dtype": torch.float64}
        return RollingKVCache((model or self.model).config, rows, **(how | more))

    def run(self, way: str, tokens: Tensor) -> list[Tensor]:
        """What each layer gives out for one text (1, T), and at last the logits: (T, .) each.

        `way` is a kernel, or "cache".
        """
        model = self.model if way == "cache" else self.twin(attention=way)
        with Listening(model) as given:
            if way == "cache":
                logits = fed(model, self.cache(), tokens, self.width + 1)
            else:
                logits = model(tokens)
        return [*(torch.cat(parts, dim=1)[0, -tokens.shape[1] :] for parts in given), logits[0]]

    def expected(self, tokens: Tensor, windows: Sequence[oracle.Window] | None = None) -> Tensor:
        """The oracle's logits (T, V) for one text (1, T)."""
        weights = dict(self.model.named_parameters())
        return oracle.logits(weights, self.config, tokens[0].tolist(), windows or self.windows)


class Twin(Transformer):
    """A model that is about to get another's weights."""

    def initialise(self) -> None:
        """Draw none."""


class Listening:
    """Within it, collect what each layer gives out, call by call."""

    def __init__(self, model: Transformer) -> None:
        self.given: list[list[Tensor]] = [[] for _ in model.layers]
        self._hooks = [
            layer.register_forward_hook(lambda _m, _i, out, to=to: to.append(out))
            for layer, to in zip(model.layers, self.given, strict=True)
        ]

    def __enter__(self) -> list[list[Tensor]]:
        return self.given

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def fed(model: Transformer, cache: RollingKVCache, tokens: Tensor, chunk: int) -> Tensor:
    """Logits (B, T, V) of tokens (B, T) that continue what the cache holds, in chunks."""
    return torch.cat([model(part, cache=cache) for part in tokens.split(chunk, dim=1)], dim=1)


@torch.enable_grad()
def influence(model: Transformer, tokens: Tensor, query: int) -> tuple[Tensor, Tensor]:
    """Measure how strongly each token of a text (1, T) acts on what a layer gives out at `query`.

    By the largest gradient, 0 where it does not act at all: through that layer alone, and through
    it and all before it, (layers, T) each. A sink token in front is left out.
    """
    embedded: list[Tensor] = []
    hook = model.tok_embeddings.register_forward_hook(lambda _m, _i, out: embedded.append(out))
    with Listening(model) as given:
        model(tokens)
    hook.remove()
    alone: list[Tensor] = []
    through: list[Tensor] = []
    for depth, (out,) in enumerate(given):
        here = out[0, query - tokens.shape[1]]
        weigh = torch.linspace(1, 2, len(here), dtype=out.dtype)  # no sum that could be constant
        inputs = [given[depth - 1][0] if depth else embedded[0], embedded[0]]
        for found, slope in zip((alone, through), slopes(here, weigh, inputs), strict=True):
            found.append(slope[0, -tokens.shape[1] :].abs().amax(-1))
    return torch.stack(alone), torch.stack(through)


def slopes(result: Tensor, weigh: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of the weighed sum of a result; 0 for what it does not depend on."""
    total = (result * weigh).sum()
    return torch.autograd.grad(total, list(inputs), retain_graph=True, materialize_grads=True)


def must(condition: object) -> float:
    """The difference of what is either right or wrong."""
    return 0.0 if condition else math.inf


def each(ours: Tensor, theirs: Tensor) -> Iterator[float]:
    """The largest difference at each position of two texts (T, .), as a share of the largest number
    where that is above 1."""
    if ours.shape != theirs.shape or not bool(ours.isfinite().all()):
        yield math.inf
    else:
        scale = max(1.0, theirs.abs().max().item())
        yield from ((ours - theirs).abs().amax(-1) / scale).tolist()


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of all, as in `each`."""
    return max(each(ours.reshape(-1, 1), theirs.reshape(-1, 1)))


def bits(ours: Tensor, theirs: Tensor) -> float:
    """0 if they are the same to the last bit."""
    return 0.0 if torch.equal(ours, theirs) else max(gap(ours, theirs), math.ulp(0.0))
