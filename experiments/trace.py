"""By which hops does a far token reach the prediction? `python -m experiments.trace RUN ["text"]`

A query sees W keys. What is further back comes through the layers: a token nearer to the query has
read it, and the query reads that token. This command takes one prediction and one token outside the
window, and finds the hops by causal patching (`experiments/patching.py`). Without a text it looks
for a question about an unseen story that the model answers right only because of a fact outside the
window.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import add_run, open_run
from errors import ArgumentParser, UserError, command
from experiments.pages.charts import Chart
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.result import About, Clock, add_json, add_quick, show_hint, store, write_json
from experiments.trace_drawing import drawing, grid
from experiments.trace_result import TraceResult
from model.window import reach, widest

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from experiments.trace_cases import Case
    from inference.trained import TrainedModel

QUESTIONS, QUICK_QUESTIONS = 20_000, 4000
TRACEABLE = 1e-6  # bits: an effect that is smaller cannot be traced


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Trace, store and print."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(arguments)
    clock = Clock(parser.prog, argv)
    trained = open_run(arguments)
    from experiments.influence import in_float64

    case, note = _case(arguments, trained)
    result = trace(in_float64(trained), case, note)
    store(Path(arguments.run), "trace", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    print(*_report(result), show_hint(Path(arguments.run)), sep="\n")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.trace",
        description="Find the hops by which a token outside the window reaches a prediction.",
        epilog="example: python -m experiments.trace runs/quickstart",
    )
    add_run(parser)
    add = parser.add_argument
    add("text", nargs="?", help="a text whose last token is explained (a question of a story)")
    add("--at", type=int, metavar="N", help="explain token N of the text (the last)")
    add("--predict", action="store_true", help="explain the likeliest token after the text")
    add("--source", type=int, metavar="N", help="trace token N (outside the window, the strongest)")
    add("--word", help="trace this word, where it stands last before the prediction")
    add("--replace", metavar="WORD", help="what replaces it (tokens of the text, at random)")
    add("--questions", type=int, help=f"questions to look through for a case ({QUESTIONS:,})")
    add("--seed", type=int, default=0, help="draws replacements (0)")
    add_quick(parser, f"{QUICK_QUESTIONS} questions to look through")
    add_json(parser)
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together."""
    options = ("at", "source", "word", "replace")
    given = [name for name in options if getattr(arguments, name) is not None]
    if arguments.text is None and (given or arguments.predict):
        raise UserError(f"--{[*given, 'predict'][0]} is about a text: give one after RUN")
    if arguments.at is not None and arguments.predict:
        raise UserError("give --at or --predict, not both")
    if arguments.source is not None and arguments.word is not None:
        raise UserError("give --source or --word, not both")
    if arguments.questions is not None and arguments.questions < 1:
        raise UserError(f"--questions is {arguments.questions}: give 1 or more")
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}: it must be 0 or more")


# ---------------------------------------------------------------------------- the case


def _case(arguments: argparse.Namespace, trained: "TrainedModel") -> tuple["Case", str]:
    """Return the case, and what must be said about it."""
    from experiments import trace_cases
    from experiments.story_run import story_run

    window = widest(trained.model.config.windows)
    if arguments.text is not None:
        return _given(arguments, trained, window), ""
    run = story_run(arguments.run, trained)
    questions = arguments.questions or (QUICK_QUESTIONS if arguments.quick else QUESTIONS)
    case, found = trace_cases.find_case(run, questions, window)
    if found:
        return case, ""
    return case, (
        f"Of {questions:,} questions, the model answers none right only because of a fact outside "
        "the window. This is the one whose fact has the largest effect."
    )


def _given(arguments: argparse.Namespace, trained: "TrainedModel", window: int | None) -> "Case":
    """Return the case of the given text. Raises `UserError` if it is too short for the options."""
    from experiments.trace_cases import text_case

    tokenizer = trained.tokenizer
    tokens = tokenizer.encode_prompt(arguments.text)
    if arguments.predict:
        answer = _likeliest(trained, tokens)
    else:
        at = len(tokens) - 1 if arguments.at is None else arguments.at
        if not 2 <= at < len(tokens):
            raise UserError(
                f"the text has the tokens 1 to {len(tokens) - 1}, and none before the one to "
                f"explain: it needs 2 or more" if len(tokens) < 3 or arguments.at is None else
                f"--at is {at}: the text's tokens are 1 to {len(tokens) - 1}, and one must stand "
                "before"
            )  # fmt: skip
        tokens, answer = tokens[:at], tokens[at]
    if len(tokens) < 2:
        raise UserError("the text is empty: give one of 2 tokens or more")
    source = _source(arguments, trained, tokens)
    replacement = None
    if arguments.replace is not None:
        if source is None:
            raise UserError("--replace needs --word or --source")
        replacement = tokenizer.encode(f" {arguments.replace}")
        if len(replacement) != len(source):
            raise UserError(
                f"--replace {arguments.replace} has {len(replacement)} tokens and what it replaces "
                f"has {len(source)}: choose a word with as many"
            )
    return text_case(trained, tokens, answer, window, source, replacement, arguments.seed)


def _source(
    arguments: argparse.Namespace, trained: "TrainedModel", tokens: Sequence[int]
) -> list[int] | None:
    """Return the positions of the source that the user names; None: none is named."""
    if arguments.source is not None:
        if not 0 <= arguments.source < len(tokens):
            raise UserError(
                f"--source is {arguments.source}: before the prediction stand 0 to "
                f"{len(tokens) - 1}"
            )
        return [arguments.source]
    if arguments.word is None:
        return None
    for spelling in (f" {arguments.word}", arguments.word):
        word = trained.tokenizer.encode(spelling)
        for start in range(len(tokens) - len(word), 0, -1):
            if list(tokens[start : start + len(word)]) == word:
                return list(range(start, start + len(word)))
    raise UserError(f"--word {arguments.word} is not in the text before the prediction")


def _likeliest(trained: "TrainedModel", tokens: Sequence[int]) -> int:
    import torch

    with torch.inference_mode():
        return int(trained.model(torch.tensor([tokens]), last_only=True)[0, 0].argmax())


# ---------------------------------------------------------------------------- the trace


def trace(trained: "TrainedModel", case: "Case", note: str = "") -> TraceResult:
    """Trace a case; `trained` is in float64. Raises `UserError` if the source has no effect."""
    import torch

    from experiments.patching import Patching

    patching = Patching(
        trained.model, torch.tensor(case.clean), torch.tensor(case.corrupted), case.answer
    )
    config, decode = trained.model.config, trained.tokenizer.decode
    limit = reach(config.windows)
    beyond = limit is not None and not config.attention_sinks and case.distance >= limit
    if abs(patching.effect) < TRACEABLE:
        why = f": it is {case.distance} back, and the wall is {limit - 1}" if beyond else ""  # type: ignore[operator]
        raise UserError(
            f"{case.note}, and the prediction stays the same{why}: choose another source"
        )
    shares = patching.node_shares()
    path, carried = patching.path(config.windows, shares)
    for layer, (start, end) in enumerate(pairwise(path)):
        window = config.windows[layer]
        assert window is None or end - start < window or start < config.attention_sinks
    first = min(case.source)
    return TraceResult(
        str(trained.checkpoint.path), config.windows, case.note, note,
        tuple(decode([token]) or trained.tokenizer.piece(token) for token in case.clean),
        decode([case.answer]), case.source, case.distance, first,
        2**patching.clean_bits, 2**patching.corrupted_bits, patching.effect,
        tuple(tuple(row[first:]) for row in shares), tuple(path), tuple(carried),
    )  # fmt: skip


def _report(result: TraceResult) -> Iterator[str]:
    """Yield what is printed."""
    yield result.text() + f" ->{result.answer}\n"
    yield from result.sentences()
    yield ""
    yield grid(result)
    yield ""
    yield from result.hops()


def section(about: About, result: TraceResult) -> Section:
    """Return the part of a page about these results."""
    parts: list[str | Table | Chart] = [
        result.text() + f" →{result.answer}",
        " ".join(result.sentences()),
        drawing(result),
        "\n".join(["The strongest path:", *result.hops()]),
        "A share is what one place restores of the whole effect if only it gets its clean value "
        "back. Shares of a layer need not sum to 100 %, and one can be larger: places can work "
        "together, against each other, or carry the same. The path is chosen backwards, the "
        "strongest place at each step; another path may carry more. It is one prediction, and not "
        "how the model works in general.",
    ]
    return Section("By which hops does a far token reach the prediction?", parts, about)


if __name__ == "__main__":
    sys.exit(main())
