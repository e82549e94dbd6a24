"""Questions about unseen stories: the text up to a word that an earlier fact decides.

    the kite was put in the barn ... it was still in the [barn]
                            |fact|<------ distance ---->|
                            |<-------- span ----------->|

`distance` counts the keys from the query, the last token read, back to the last token of the fact,
both included; `span` counts to its first token. So a layer with window W sees the whole fact if
span <= W, and nothing of it if distance > W. Through all layers nothing of it can arrive if
distance > reach (`model.window.reach`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from data.stories import Probe
from experiments.story_run import StoryRun

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

STORIES = 1000  # at most so many are searched for questions


@dataclass(frozen=True)
class Question:
    """What a model reads, and the first tokens that tell the candidates apart."""

    kind: str  # what the fact is about
    tokens: list[int]
    without_fact: list[int]  # BOS and the tokens after the fact
    right: int
    wrong: list[int]
    distance: int  # keys from the query back to the last token of the fact
    span: int  # keys from the query back to its first token


def draw_questions(
    run: StoryRun,
    column: Callable[[str, int], int | None],
    n_columns: int,
    each: int,
    *,
    split: str = "test",
    far: int | None = None,
) -> list[list[Question]]:
    """Return at most `each` questions for every column, from unseen stories of `split`.

    `column` maps the kind and the distance of a question to its column, or to None. A story gives
    at most one question to a column, so that the questions of a column are independent. A column
    has fewer questions if STORIES stories do not have enough.
    """
    asked: list[list[Question]] = [[] for _ in range(n_columns)]
    waiting: set[int] = set()  # columns that take a question from the present story

    def wanted(kind: str, distance: int) -> bool:
        return column(kind, distance) in waiting

    for text, probes in islice(run.unseen(split, far), STORIES):
        waiting |= {n for n, questions in enumerate(asked) if len(questions) < each}
        if not waiting:
            break
        for question in story_questions(run.trained.tokenizer, text, probes, wanted):
            place = column(question.kind, question.distance)
            if place is not None and place in waiting:
                asked[place].append(question)
                waiting.remove(place)
    return asked


def story_questions(
    tokenizer: "Tokenizer",
    text: str,
    probes: tuple[Probe, ...],
    wanted: Callable[[str, int], bool] = lambda kind, distance: True,
) -> Iterator[Question]:
    """Yield the questions of a story whose kind and distance are wanted.

    The text is cut where the right word begins to differ from the other candidates. A candidate
    that begins with the same token is left out, and a probe of which none remains.
    """
    for probe in probes:
        # The distance without the tokens that all candidates share: never more than the distance.
        fact_end = len(tokenizer.encode(text[: probe.fact[1]]))
        before = text[: probe.use[0]]
        least = max(1, len(tokenizer.encode(before.rstrip())) - fact_end + 1)
        if not wanted(probe.kind, least):
            continue
        answers = [tokenizer.encode(before + word) for word in (probe.right, *probe.wrong)]
        columns = enumerate(zip(*answers, strict=False))
        start = next(n for n, tokens in columns if len(set(tokens)) > 1)
        right = answers[0][start]
        wrong = sorted({answer[start] for answer in answers} - {right})
        if wrong:
            bos, tokens = tokenizer.bos_id, answers[0][:start]
            fact_start = len(tokenizer.encode(text[: probe.fact[0]].rstrip()))
            yield Question(
                probe.kind,
                [bos, *tokens],
                [bos, *tokens[fact_end:]],
                right,
                wrong,
                distance=max(1, start - fact_end + 1),
                span=max(1, start - fact_start),
            )
