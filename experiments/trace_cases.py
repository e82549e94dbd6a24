"""Texts to trace: what the user gives, or a question about an unseen story.

A case is a clean text, and a corrupted one in which the source is replaced by as many tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.stories import Probe
from errors import UserError
from experiments.trace_result import bare

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer
    from experiments.story_run import StoryRun
    from inference.trained import TrainedModel

DECISIVE = 1.0  # bits: with another fact the right answer is half as likely, or less
SUBSTITUTES = 4  # tokens that are tried in place of another
ROWS = 16  # texts in a forward pass


@dataclass(frozen=True)
class Case:
    """Two texts that differ in the source, and the token that they make more or less likely."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    source: tuple[int, ...]  # positions
    answer: int
    note: str  # where the case is from

    @property
    def distance(self) -> int:
        """From the nearest token of the source to the query that predicts, in tokens."""
        return len(self.clean) - 1 - self.source[-1]


@dataclass(frozen=True)
class _Question:
    """A case that was not answered yet: the answers that it has, the right one first."""

    case: Case
    wrong: tuple[int, ...]


# ---------------------------------------------------------------------------- unseen stories


def find_case(run: "StoryRun", questions: int, window: int | None) -> tuple[Case, bool]:
    """Look for a question that the model answers right only because of a fact outside the window.

    The fact is mentioned once, `window` tokens back or more (None: any distance). The model must be
    right, and no longer with another fact in its place, which must cost `DECISIVE`. Returns the
    first such case and True. If there is none, returns the question whose fact has the largest
    effect, and False. Raises `UserError` if no question has its fact so far back.
    """
    config = run.trained.config.data
    best: tuple[float, Case] | None = None
    with tqdm(total=questions, desc="questions", leave=False, disable=None) as bar:
        for question in _questions(run, questions, window, config.seq_len, bar):
            effect, decides = _ask(run.trained, question)
            if decides:
                return question.case, True
            if best is None or effect > best[0]:
                best = effect, question.case
    if best is None:
        raise UserError(
            f"of {questions:,} questions about unseen stories none has its fact outside the "
            f"window and within {config.seq_len} tokens: give a text"
        )
    return best[1], False


def _questions(
    run: "StoryRun", limit: int, window: int | None, longest: int, bar: "tqdm[Any]"
) -> Iterator[_Question]:
    """Yield those of the first `limit` questions whose fact is so far back, in texts not longer."""
    asked = 0
    for text, probes in run.unseen():
        for probe in probes:
            asked += 1
            bar.update()
            if asked > limit:
                return
            question = _question(run.trained.tokenizer, text, probe, longest)
            if question is not None and (window is None or question.case.distance >= window):
                yield question


def _question(tokenizer: "Tokenizer", text: str, probe: Probe, longest: int) -> _Question | None:
    """Cut the text before the first token that tells the candidates apart; None if it cannot be.

    The fact must be the only mention of its word, and another candidate must have as many tokens.
    """
    before = text[: probe.use[0]]
    if before.lower().count(probe.right.lower()) != 1:
        return None
    answers = [tokenizer.encode(before + word) for word in (probe.right, *probe.wrong)]
    end = next(n for n, row in enumerate(zip(*answers, strict=False)) if len(set(row)) > 1)
    right = answers[0][end]
    wrong = sorted({answer[end] for answer in answers} - {right})
    clean = answers[0][:end]
    for word in probe.wrong:
        other = before[: probe.fact[0]] + word + before[probe.fact[1] :]
        corrupted = tokenizer.encode(other)[:end]
        source = [
            n for n, pair in enumerate(zip(clean, corrupted, strict=False)) if len(set(pair)) > 1
        ]
        whole = clean[source[0] : source[-1] + 1] if source else []
        named = tokenizer.decode(whole).strip().lower() == probe.right.lower()
        if wrong and named and len(corrupted) == end and end + 1 - source[0] < longest:
            cut = max(0, end + 1 - longest)
            texts = [tuple([tokenizer.bos_id, *row][cut:]) for row in (clean, corrupted)]
            place = tuple(n + 1 - cut for n in source)
            note = f"an unseen story ({probe.kind}): {probe.right} is replaced by {word}"
            return _Question(Case(texts[0], texts[1], place, right, note), tuple(wrong))
    return None


@torch.inference_mode()
def _ask(trained: "TrainedModel", question: _Question) -> tuple[float, bool]:
    """Return the effect of the fact, in bits, and whether it alone makes the answer right."""
    case = question.case
    rows = torch.tensor([case.clean, case.corrupted])
    clean, corrupted = trained.model(rows, last_only=True)[:, 0].log_softmax(-1)
    wrong = list(question.wrong)
    right = bool(clean[case.answer] > clean[wrong].max())
    still = bool(corrupted[case.answer] > corrupted[wrong].max())
    effect = float(clean[case.answer] - corrupted[case.answer]) / math.log(2)
    return effect, right and not still and effect >= DECISIVE


# ---------------------------------------------------------------------------- a given text


def text_case(
    trained: "TrainedModel", tokens: Sequence[int], answer: int, window: int | None,
    source: Sequence[int] | None, replacement: Sequence[int] | None, seed: int,
) -> Case:  # fmt: skip
    """Return the case of a text that the user gives: tokens before the answer, and the answer.

    Without a source, it is the token outside the window whose replacement makes the answer least
    likely; if all are inside, any token but the last. Without a replacement, the best of a few
    tokens of the text, drawn at random.
    """
    draw = torch.Generator().manual_seed(seed)
    last = len(tokens) - 1
    begin = 1 if tokens[0] == trained.tokenizer.bos_id else 0
    outside = [] if window is None else list(range(begin, last - window + 1))
    places = [tuple(source)] if source else [(n,) for n in outside or range(begin, max(last, 1))]
    variants, sources = [], []
    for place in places:
        for _ in range(1 if replacement else SUBSTITUTES):
            other = list(tokens)
            for n, position in enumerate(place):
                other[position] = (
                    replacement[n] if replacement else _other(trained, tokens, position, draw)
                )
            variants.append(other)
            sources.append(place)
    scores = _log_probabilities(trained, torch.tensor(variants), answer)
    best = int(scores.argmin())
    changed = [(tokens[n], variants[best][n]) for n in sources[best]]
    names = [bare(trained.tokenizer.decode(row)) for row in zip(*changed, strict=True)]
    note = f"the given text: {names[0]!r} is replaced by {names[1]!r}"
    return Case(tuple(tokens), tuple(variants[best]), sources[best], answer, note)


def _other(
    trained: "TrainedModel", tokens: Sequence[int], position: int, draw: torch.Generator
) -> int:
    """Draw another token of the text; of the vocabulary if the text has only one."""
    others = [token for token in tokens[1:] if token != tokens[position]]
    others = others or [n for n in trained.tokenizer.piece_ids if n != tokens[position]]
    return others[int(torch.randint(len(others), (1,), generator=draw))]


@torch.inference_mode()
def _log_probabilities(trained: "TrainedModel", rows: Tensor, answer: int) -> Tensor:
    """Return the log-probability of the answer after each row (n, T)."""
    parts = tqdm(rows.split(ROWS), "sources", leave=False, disable=None)
    return torch.cat([
        trained.model(part, last_only=True)[:, 0].log_softmax(-1)[:, answer] for part in parts
    ])  # fmt: skip
