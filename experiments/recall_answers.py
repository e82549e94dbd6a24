"""The answers of one model to questions about stories: counts by column, by hops and by layer.

After each layer the residual stream at the query is read with the model's own last norm and output
matrix (the "logit lens": nostalgebraist, 2020). After the last layer this is the model's answer.
Earlier it is a lower bound: a layer may know the answer in a form that only later layers read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.story_questions import Question
from experiments.story_run import StoryRun
from model.window import Window, reach, widest

if TYPE_CHECKING:
    from torch import Tensor

    from inference.trained import TrainedModel

ROWS = 16  # questions in a forward pass
HOPS = ("within W", "beyond W, up to the wall", "beyond the wall")


@dataclass(frozen=True)
class Counts:
    """Answers to some questions. Only sums are kept: all intervals follow from them."""

    questions: int = 0
    right: int = 0
    right_without_fact: int = 0
    only_with_fact: int = 0  # right, and wrong without the fact
    only_without_fact: int = 0  # wrong, and right without the fact
    by_chance: float = 0.0  # sum of 1 / candidates
    by_layer: tuple[int, ...] = ()  # right answers of the stream after each layer


@dataclass(frozen=True)
class RunAnswers:
    """What one model answered."""

    windows: tuple[int | None, ...]  # of each layer; None: full attention
    trained_length: int  # tokens
    columns: tuple[Counts, ...]
    hops: tuple[Counts, ...]  # one for each of HOPS
    between: int  # questions whose fact crosses a limit: in none of HOPS


def answer_all(run: StoryRun, columns: Sequence[Sequence[Question]]) -> RunAnswers:
    """Ask a model all questions, with and without the fact, and count.

    Full attention reads at most its trained length, so it is not asked for facts further back. A
    model with `attention_sinks` is not asked for facts in these first tokens, which stay visible.
    """
    windows, sinks = run.trained.model.config.windows, run.trained.model.config.attention_sinks
    trained_length = run.trained.config.data.seq_len
    limit = longest_text(windows, trained_length, sinks)
    farthest = limit if None in windows else None
    readable = [
        [question for question in questions if _is_fair(question, farthest, sinks)]
        for questions in columns
    ]
    asked = [question for questions in readable for question in questions]
    right = _right(run, [question.tokens for question in asked], asked, limit)
    without = _right(run, [question.without_fact for question in asked], asked, limit)
    rows = list(zip(asked, right, without, strict=True))
    hops = [hop_of(question, windows) for question in asked]
    counted, first = [], 0
    for questions in readable:
        counted.append(_count(rows[first : first + len(questions)], len(windows)))
        first += len(questions)
    return RunAnswers(
        windows,
        trained_length,
        tuple(counted),
        tuple(
            _count([row for row, place in zip(rows, hops, strict=True) if place == n], len(windows))
            for n in range(len(HOPS))
        ),
        hops.count(None),
    )


def longest_text(windows: Sequence[Window], trained_length: int, sinks: int = 0) -> int | None:
    """Return how many tokens a model reads at most; the beginning of a longer text is cut off.

    With windows: twice the reach, so that facts beyond the wall are in the text, and at least the
    trained length. With full attention: the trained length, beyond which it fails. With windows and
    sinks: all (None), because the sinks are the beginning.
    """
    far = reach(windows)
    if far is None:
        return trained_length
    return None if sinks else max(trained_length, 2 * far)


def _is_fair(question: Question, farthest: int | None, sinks: int) -> bool:
    """Return whether the whole fact is at most `farthest` keys back and after the sinks."""
    is_near = farthest is None or question.span <= farthest
    return is_near and len(question.tokens) - question.span >= sinks


def hop_of(question: Question, windows: Sequence[Window]) -> int | None:
    """Return which of `HOPS` a question belongs to; None if its fact crosses a limit.

    The widest window counts: a layer that has it can look the fact up. Sinks change nothing: they
    are the first tokens, so they see no fact after them and cannot pass one on.
    """
    window, far = widest(windows), reach(windows)
    if window is None or question.span <= window:
        return 0
    if far is None or (window < question.distance and question.span <= far):
        return 1
    return 2 if question.distance > far else None


def _count(rows: Sequence[tuple[Question, list[bool], list[bool]]], n_layers: int) -> Counts:
    """Sum up answers after each layer, with and without the fact; the last layer's is given."""
    given = [(with_fact[-1], without_fact[-1]) for _, with_fact, without_fact in rows]
    return Counts(
        questions=len(rows),
        right=sum(right for right, _ in given),
        right_without_fact=sum(right for _, right in given),
        only_with_fact=given.count((True, False)),
        only_without_fact=given.count((False, True)),
        by_chance=sum(1 / (1 + len(question.wrong)) for question, _, _ in rows),
        by_layer=tuple(sum(answers[n] for _, answers, _ in rows) for n in range(n_layers)),
    )


def _right(
    run: StoryRun, texts: Sequence[list[int]], questions: Sequence[Question], limit: int | None
) -> list[list[bool]]:
    """Return for each question and layer whether the right token is likelier than every wrong one.

    Of a text that is longer than `limit` tokens, if given, the beginning is cut off.
    """
    from tqdm import tqdm

    cut = [text if limit is None else text[-limit:] for text in texts]
    order = sorted(range(len(cut)), key=lambda n: len(cut[n]))  # so that rows need little padding
    answers: list[list[bool]] = [[] for _ in cut]
    with tqdm(total=len(cut), desc=run.path, leave=False, disable=None) as bar:
        for first in range(0, len(order), ROWS):
            places = order[first : first + ROWS]
            logits = layer_logits(run.trained, [cut[n] for n in places])
            for n, row in zip(places, logits, strict=True):
                right, wrong = questions[n].right, questions[n].wrong
                answers[n] = (row[:, right] > row[:, wrong].amax(dim=1)).tolist()
            bar.update(len(places))
    return answers


def layer_logits(trained: "TrainedModel", texts: Sequence[list[int]]) -> "Iterator[Tensor]":
    """Yield for each text (L, V): the logits after its last token, read after each layer."""
    import torch  # takes seconds; --help and errors do not need it

    model, streams = trained.model, list[Any]()
    rows = [torch.tensor(text) for text in texts]
    # A query sees no later token, so the padding changes nothing. A sink token stands in front.
    last = torch.tensor([len(row) - 1 for row in rows])
    front = 0 if model.sink_token is None else 1
    hooks = [
        layer.register_forward_hook(
            lambda _, __, x: streams.append(x[torch.arange(len(rows)), last + front])
        )
        for layer in model.layers
    ]
    try:
        with torch.inference_mode():
            model(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), last_only=True)
            yield from model.output(model.norm(torch.stack(streams, dim=1)))
    finally:
        for hook in hooks:
            hook.remove()
