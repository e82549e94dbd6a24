"""How strongly a token acts on what comes d tokens later: by gradient and by substitution.

Everything is computed in float64. In float32 an influence of less than a millionth is rounding.
An *output* is what one layer gives, or the prediction, which is listed after the layers.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from checks.passes import recorded_outputs
from data.text import open_tokens
from errors import UserError
from experiments.reach_result import WallCheck, walls
from model.transformer import Transformer

if TYPE_CHECKING:
    from inference.trained import TrainedModel

ROWS = 8  # texts in a forward pass
SOURCES = 8  # tokens of each text that are replaced, one at a time
LONGEST = 2048  # tokens of a text in the check of the walls
MARGIN = 16  # tokens that the check looks beyond the wall
CHECKED_AT = (0, 3, 10)  # places of the token and of the query in the check: not all in one block


@dataclass(frozen=True)
class Curves:
    """Influence by distance, summed over pairs of a token and a later output, for each text."""

    total: Tensor  # (texts, outputs, distances): distance 0, 1, ...
    pairs: Tensor  # (texts, distances): the number of pairs in each sum

    def mean(self, weights: Tensor) -> Tensor:
        """Return the mean influence (n, outputs, distances) under n weights of texts (n, texts)."""
        pairs = (weights @ self.pairs)[:, None].clamp(min=1e-9)
        return torch.einsum("nt,tod->nod", weights, self.total) / pairs


def in_float64(trained: "TrainedModel") -> "TrainedModel":
    """Return a copy of the model in float64."""
    return replace(trained, model=copy.deepcopy(trained.model).double())


def text_length(trained: "TrainedModel") -> int:
    """Return the tokens of a measured text: seq_len, or less if the wall is much nearer."""
    config = trained.model.config
    wall = walls(config.windows, config.attention_sinks)[-1]
    seq_len = trained.config.data.seq_len
    return seq_len if wall is None else min(seq_len, wall + 1 + max(32, wall))


def held_out(trained: "TrainedModel", split: str) -> Tensor:
    """Return the tokens (n,) of a split of the run's text. Raises `UserError` as `open_tokens`."""
    data_hash = trained.checkpoint.metadata["data_hash"]
    tokens = open_tokens(trained.config.data, trained.tokenizer, split, data_hash)
    return torch.from_numpy(tokens[:].astype("int64"))


def draw_texts(tokens: Tensor, bos: int, count: int, length: int, seed: int) -> tuple[Tensor, bool]:
    """Draw texts (count, length + 1) and say whether each lies inside one document.

    The documents differ as long as there are enough that are so long. If fewer than `count` are,
    but one at least, documents give several texts; if none is, texts run over several documents.
    Raises `UserError` if the split is shorter than a text.
    """
    if len(tokens) <= length:
        raise UserError(
            f"the split has {len(tokens):,} tokens, and a text needs {length + 1:,}: choose "
            "another split"
        )
    draw = torch.Generator().manual_seed(seed)
    begins = [0, *(tokens == bos).nonzero().flatten().tolist(), len(tokens)]
    documents = [(a, b) for a, b in pairwise(begins) if b - a > length]
    inside = bool(documents)
    documents = documents or [(0, len(tokens))]
    order = torch.randperm(len(documents), generator=draw).tolist()
    texts = []
    for n in range(count):
        start, end = documents[order[n % len(order)]]
        first = start + int(torch.randint(end - start - length, (1,), generator=draw))
        texts.append(tokens[first : first + length + 1])
    return torch.stack(texts), inside


# ---------------------------------------------------------------------------- two measurements


@torch.enable_grad()
def by_gradient(model: Transformer, texts: Tensor, label: str = "gradient") -> Curves:
    """Measure gradients at the last token of each text (n, T + 1), with respect to embeddings.

    Of the prediction: the norm of the gradient of the log-probability of the token that follows. Of
    a layer: that of the layer's output times fixed normally distributed weights, whose mean square
    is the squared norm of the whole Jacobian.
    """
    draw = torch.Generator().manual_seed(0)
    shape = (model.config.n_layers, model.config.dim)
    weights = torch.randn(shape, generator=draw, dtype=torch.float64)
    found = []
    for rows in tqdm(texts.split(ROWS), label, leave=False, disable=None):
        with _embeddings(model) as embedded, recorded_outputs(model) as outputs:
            logits = model(rows[:, :-1], last_only=True)
        scores = [(x[0][:, -1] * w).sum() for x, w in zip(outputs, weights, strict=True)]
        scores.append(logits[:, -1].log_softmax(-1).gather(-1, rows[:, -1:]).sum())
        gradients = [
            torch.autograd.grad(score, embedded[0], retain_graph=True)[0].norm(dim=-1)
            for score in scores
        ]
        found.append(torch.stack(gradients, dim=1).flip(-1))
    total = torch.cat(found)
    return Curves(total, torch.ones_like(total[:, 0]))


@torch.inference_mode()
def by_substitution(
    model: Transformer, texts: Tensor, unigrams: Tensor, seed: int, label: str = "substitution"
) -> Curves:
    """Replace tokens of each text (n, T + 1), one at a time, by others drawn from `unigrams` (m,).

    A replaced token acts on all later outputs, so each gives one pair for every distance. Half of
    the tokens are drawn from the first eighth of the text, for the large distances. The influence
    on a prediction is the total variation: the share of probability that moves to other tokens. On
    a layer's output it is the norm of the change, as a share of the output's norm.
    """
    draw = torch.Generator().manual_seed(seed)
    length = texts.shape[1] - 1
    total = torch.zeros(len(texts), model.config.n_layers + 1, length, dtype=torch.float64)
    pairs = torch.zeros(len(texts), length, dtype=torch.float64)
    for n, text in enumerate(tqdm(texts[:, :-1], label, leave=False, disable=None)):
        sources = [
            int(torch.randint(length if m % 2 else max(1, length // 8), (1,), generator=draw))
            for m in range(SOURCES)
        ]
        rows = text.repeat(SOURCES + 1, 1)
        for row, source in zip(rows, sources, strict=False):
            row[source] = _other(unigrams, int(text[source]), draw)
        changes = _changes(model, rows)
        for row, source in enumerate(sources):
            total[n, :, : length - source] += changes[:, row, source:]
            pairs[n, : length - source] += 1
    return Curves(total, pairs)


def _changes(model: Transformer, rows: Tensor) -> Tensor:
    """Return how far each output differs from that of the last row: (outputs, rows - 1, T).

    Each row is read by itself. In one product of several rows, some processors compute the last
    rows by other instructions, which round differently: equal rows would differ by 1e-16.
    """
    *changed, base = ([x[0] for x in _outputs(model, row)] for row in rows.split(1))
    *differences, distribution = zip(*changed, strict=True)
    layers = [
        (torch.stack(each) - last).norm(dim=-1) / last.norm(dim=-1)
        for each, last in zip(differences, base, strict=False)
    ]
    variation = (torch.stack(distribution) - base[-1]).abs().sum(-1) / 2
    return torch.stack([*layers, variation])


def _outputs(model: Transformer, row: Tensor) -> list[Tensor]:
    """Return each layer's output (1, T, D), and the probabilities (1, T, V)."""
    with recorded_outputs(model) as outputs:
        probabilities = model(row).softmax(-1)
    n = row.shape[1]  # a sink token has no column
    return [*(output[:, -n:] for (output,) in outputs), probabilities]


def _other(unigrams: Tensor, token: int, draw: torch.Generator) -> int:
    """Draw a token that differs from `token`; any other one if there is none in `unigrams`."""
    for _ in range(100):
        other = int(unigrams[int(torch.randint(len(unigrams), (1,), generator=draw))])
        if other != token:
            return other
    return token - 1 if token else 1


@contextmanager
def _embeddings(model: Transformer) -> Iterator[list[Tensor]]:
    """Make the embeddings (B, T, D) of each forward pass leaves that gradients reach."""
    leaves: list[Tensor] = []

    def detach(_module: object, _inputs: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    hook = model.tok_embeddings.register_forward_hook(detach)
    try:
        yield leaves
    finally:
        hook.remove()


# ---------------------------------------------------------------------------- the check


def check_walls(trained: "TrainedModel", tokens: Tensor, seed: int) -> list[WallCheck]:
    """Look for influence beyond the wall of each layer, under the kernels dense and blocked.

    `trained` is in float64; `tokens` (n,) give the text, repeated if it is short. Layers whose wall
    is beyond `LONGEST` tokens, or that have none, are left out.
    """
    config = trained.model.config
    limits = walls(config.windows, config.attention_sinks)
    known = [wall for wall in limits if wall is not None and wall < LONGEST - 2 * MARGIN]
    if not known:
        return []
    length = known[-1] + 1 + MARGIN + max(CHECKED_AT)
    text = tokens.repeat(-(-length // len(tokens)))[:length]
    found = []
    for kernel in ("dense", "blocked"):
        model = trained.with_settings(attention=kernel).model
        gradients = _furthest_by_gradient(model, text)
        substitutions = _furthest_by_substitution(model, text, tokens, seed)
        looked_back = length - 1 - max(CHECKED_AT)
        found += [
            WallCheck(kernel, layer, wall, gradients[layer], substitutions[layer], looked_back)
            for layer, wall in enumerate(known)
        ]
    return found


@torch.enable_grad()
def _furthest_by_gradient(model: Transformer, text: Tensor) -> list[int]:
    """Return for each layer the furthest token, in tokens back, with a gradient that is not 0."""
    with _embeddings(model) as embedded, recorded_outputs(model) as outputs:
        model(text[None])
    furthest = [0] * len(outputs)
    for layer, (output,) in enumerate(outputs):
        for place in CHECKED_AT:
            query = len(text) - 1 - place
            at_query = output[0, query - len(text)]
            weights = torch.linspace(1, 2, len(at_query), dtype=output.dtype)
            score = (at_query * weights).sum()
            (gradient,) = torch.autograd.grad(score, embedded[0], retain_graph=True)
            first = int(gradient[0].abs().amax(-1).nonzero()[0])
            furthest[layer] = max(furthest[layer], query - first)
    return furthest


@torch.inference_mode()
def _furthest_by_substitution(
    model: Transformer, text: Tensor, unigrams: Tensor, seed: int
) -> list[int]:
    """Return for each layer how far behind a replaced token an output changes in any bit."""
    draw = torch.Generator().manual_seed(seed)
    rows = text.repeat(len(CHECKED_AT) + 1, 1)
    for row, place in zip(rows, CHECKED_AT, strict=False):
        row[place] = _other(unigrams, int(text[place]), draw)
    with recorded_outputs(model) as outputs:
        model(rows)
    furthest = []
    for (output,) in outputs:
        kept = output[:, -len(text) :]
        changed = (kept[:-1] != kept[-1]).any(-1)
        last = [int(row.nonzero()[-1]) if row.any() else 0 for row in changed]
        distances = (end - place for end, place in zip(last, CHECKED_AT, strict=True))
        furthest.append(max(0, *distances))
    return furthest


def measured_walls(
    gradient: Curves, substitution: Curves, limits: list[int | None]
) -> list[WallCheck]:
    """Look for influence beyond the walls in measured curves, for walls inside the texts."""
    length = gradient.total.shape[-1]
    furthest = [
        [int(layer.nonzero().max()) for layer in curves.total.amax(0)]
        for curves in (gradient, substitution)
    ]
    return [
        WallCheck("auto", layer, wall, furthest[0][layer], furthest[1][layer], length - 1)
        for layer, wall in enumerate(limits)
        if wall is not None and wall < length
    ]
