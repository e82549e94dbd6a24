"""The loss of one model by position: every range of positions predicts the same tokens.

The tokens are pieces of the split, from all over it. For the positions from a to b - 1 a piece is
cut into stretches of at most b - a tokens; each stretch is predicted at the end of a text that
begins a tokens before the stretch's first prediction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from errors import UserError

if TYPE_CHECKING:
    from inference.trained import TrainedModel

BATCH_TOKENS = 8192  # in a forward pass


@dataclass(frozen=True)
class Text:
    """The tokens of a split, and the places of the pieces that are predicted."""

    tokens: Any  # (n,) integers
    starts: tuple[int, ...]  # of each piece: the first predicted token
    size: int  # tokens in a piece


@dataclass(frozen=True)
class RunLoss:
    """Bits of each piece, at each range of positions, of one run."""

    tokens: int  # predicted at every position
    n_bytes: int  # that they encode
    bits: tuple[tuple[float, ...], ...]  # (ranges, pieces)


def column_edges(trained_length: int, multiples: Sequence[int]) -> tuple[int, ...]:
    """Return the ends of the ranges of positions: 0 1 2 4 8 ... trained length, multiples of it."""
    powers = [0] + [2**n for n in range(trained_length.bit_length()) if 2**n < trained_length]
    return (*powers, *(multiple * trained_length for multiple in multiples))


def text_key(run: "TrainedModel") -> tuple[Any, ...]:
    """Return what runs must share so that they can predict the same tokens."""
    return (
        run.checkpoint.metadata["data_hash"],
        run.tokenizer.model_bytes,
        run.config.data.seq_len,
    )


def refuse_trained_scaling(run: "TrainedModel", scalings: Sequence[str], path: str) -> None:
    """Raise `UserError` if a run was trained with a scaling and another is asked for."""
    trained = run.model.config.rope_scaling
    if trained != "none" and set(scalings) != {"none"}:
        raise UserError(
            f"{path} was trained with RoPE scaling {trained}, which cannot be combined with "
            "another: use --scaling none to keep it"
        )


def open_text_of(run: "TrainedModel", split: str, edges: Sequence[int], targets: int) -> Text:
    """Open a split of the run's text and choose about `targets` tokens, from all over it.

    Raises `UserError` if the text has changed, or has too few tokens for the last range.
    """
    from data.text import open_tokens

    tokens = open_tokens(
        run.config.data, run.tokenizer, split, run.checkpoint.metadata["data_hash"]
    )
    return choose_pieces(tokens, edges, targets)


def choose_pieces(tokens: Any, edges: Sequence[int], targets: int) -> Text:
    """Choose pieces as long as the widest range, each with the longest context before it.

    Raises `UserError` if there is no such piece.
    """
    size = max(end - start for start, end in pairwise(edges))
    first = edges[-2] + 1  # a text of the last range begins at token 0
    starts = range(first, len(tokens) - size + 1, size)
    if not starts:
        raise UserError(
            f"the split has {len(tokens):,} tokens, and --lengths needs {first + size:,}: use "
            "smaller --lengths or another --split"
        )
    chosen = min(len(starts), max(1, targets // size))
    return Text(tokens, tuple(starts[n * len(starts) // chosen] for n in range(chosen)), size)


def measure_run(
    run: "TrainedModel",
    text: Text,
    edges: Sequence[int],
    scaling: str,
    name: str,
    unscaled: RunLoss | None = None,
) -> RunLoss:
    """Predict all pieces at every range of positions, with a RoPE scaling.

    Within the trained length no scaling applies: there the bits are taken from `unscaled`, the
    measurement with scaling none, if it is given.
    """
    from tqdm import tqdm

    ranges, trained_length = list(pairwise(edges)), run.config.data.seq_len
    known = (
        []
        if unscaled is None
        else [
            bits
            for bits, (_, end) in zip(unscaled.bits, ranges, strict=True)
            if end <= trained_length
        ]
    )
    n_tokens = text.size * len(text.starts)
    work = sum(n_tokens * end // (end - start) for start, end in ranges[len(known) :])
    bits = list(known)
    with tqdm(total=work, unit="token", desc=name, leave=False, disable=None) as bar:
        for start, end in ranges[len(known) :]:
            model = _scaled(run, scaling, end)
            bits.append(tuple(_bits(model, text, start, end - start, bar)))
    predicted = [id for at in text.starts for id in text.tokens[at : at + text.size].tolist()]
    n_bytes = sum(len(run.tokenizer.token_bytes(id)) for id in predicted)
    return RunLoss(n_tokens, n_bytes, tuple(bits))


def _scaled(run: "TrainedModel", scaling: str, length: int) -> "TrainedModel":
    """Return the model for texts of `length` tokens; within the trained length, as trained."""
    trained_length = run.config.data.seq_len
    if scaling == "none" or length <= trained_length:
        return run
    return run.with_settings(
        rope_scaling=scaling,
        rope_factor=length / trained_length,
        rope_original_len=trained_length,
    )


def stretches(text: Text, width: int) -> list[tuple[int, int, int]]:
    """Cut the pieces into stretches of at most `width`: (piece, first predicted token, tokens)."""
    return [
        (piece, start + cut, min(width, text.size - cut))
        for piece, start in enumerate(text.starts)
        for cut in range(0, text.size, width)
    ]


def _bits(run: "TrainedModel", text: Text, before: int, width: int, bar: Any) -> list[float]:
    """Return the bits of each piece when its stretches are predicted from position `before` on."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    bits = [0.0] * len(text.starts)
    by_length: dict[int, list[tuple[int, int]]] = {}  # the last stretch of a piece may be shorter
    for piece, start, length in stretches(text, width):
        by_length.setdefault(length, []).append((piece, start))
    for length, places in by_length.items():
        rows = max(1, BATCH_TOKENS // (before + length))
        for n in range(0, len(places), rows):
            batch = places[n : n + rows]
            # Position `before` predicts the stretch's first token: it is the token in front of it.
            cut = [text.tokens[at - before - 1 : at + length] for _, at in batch]
            x = torch.from_numpy(np.stack(cut).astype(np.int64))
            inputs, targets = x[:, :-1], x[:, 1:][:, before:]
            documents = None if run.bos_id is None else 1 + (inputs == run.bos_id).cumsum(dim=1)
            with torch.no_grad():
                logits = run.model(inputs, documents=documents)[:, before:]
            nats = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            for (piece, _), row in zip(batch, nats.view(targets.shape).double(), strict=True):
                bits[piece] += row.sum().item() / math.log(2)
            bar.update(inputs.numel())
    return bits
