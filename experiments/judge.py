"""Do the stories that a model writes hold together? `python -m experiments.judge RUN`

Lets a model that was trained on stories write some, reads them with data/stories/judge.py, and
prints its score card beside that of as many true stories that the model never saw: contradictions,
slips of grammar, and how much was copied from the training text.
"""

import re
import statistics
import sys
from bisect import bisect_left
from collections.abc import Sequence
from itertools import count, islice
from typing import TYPE_CHECKING

from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inference.trained import TrainedModel

RUN_OF_WORDS = 20  # that long a run of words is no accident
MULTIPLIER = 0x9E3779B97F4A7C15  # of a hash of words, any large odd number
ROWS = 10  # stories written side by side


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print two columns, the model's stories and true ones; with --show, what was found."""
    parser = ArgumentParser(
        prog="python -m experiments.judge",
        description="Judge the stories that a model writes.",
        epilog="example: python -m experiments.judge runs/quickstart --stories 50 --show",
    )
    parser.add_argument("run", nargs="?", default="runs/quickstart", help="a run or a checkpoint")
    parser.add_argument("--stories", type=int, default=20, help="how many to write (20)")
    parser.add_argument("--max-tokens", type=int, default=800, help="length of a story (800)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other stories (0)")
    parser.add_argument("--show", action="store_true", help="print the stories and what is wrong")
    arguments = parser.parse_args(argv)
    for name in ("stories", "max_tokens"):
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(arguments, name)}: at least 1")

    from data.stories.telling import story
    from data.stories.world import split_of
    from inference.trained import open_trained

    opened = open_trained(arguments.run)
    told = opened.config.data.stories
    if opened.config.data.source != "stories":
        raise UserError(
            f"{arguments.run} was not trained on stories: the judge knows no other text"
        )
    written = _write(opened, arguments.stories, arguments.max_tokens, arguments.seed)
    unseen = (story(0, n).text for n in count(told) if split_of(n) == "test")
    true = list(islice(unseen, arguments.stories))
    training = [story(0, n).text for n in range(told) if split_of(n) == "train"]
    if arguments.show:
        _show(written)
    print(f"{opened.checkpoint.path}: {len(written)} stories, beside as many true ones")
    print(f"{'':<44}{'written':>10}{'true':>10}")
    cards = _score_card(written, training), _score_card(true, training)
    for label in cards[0]:
        print(f"{label:<44}{cards[0][label]:>10}{cards[1][label]:>10}")
    return 0


def _write(opened: "TrainedModel", stories: int, max_tokens: int, seed: int) -> list[str]:
    """Let the model write from the beginning; of a story without an end, whole sentences."""
    from tqdm import tqdm

    from model import Sampling, generate

    tokenizer, wanted = opened.tokenizer, opened.config.sample
    sampling = Sampling(
        wanted.temperature, wanted.top_k, wanted.top_p, wanted.min_p, wanted.repetition_penalty
    )
    texts = []
    for first in range(0, stories, ROWS):
        rows = min(ROWS, stories - first)
        stream = generate(
            opened.model,
            [[tokenizer.bos_id]] * rows,
            max_tokens,
            sampling=sampling,
            seed=seed + first,
            stop=[tokenizer.eos_id, tokenizer.bos_id],
        )
        label = f"stories {first + 1} to {first + rows}"
        steps = list(tqdm(stream, label, total=max_tokens, leave=False, disable=None))
        for row in zip(*steps, strict=True):
            tokens = [token for token in row if token is not None]
            text = tokenizer.decode(tokens)
            ended = tokens[-1] in (tokenizer.eos_id, tokenizer.bos_id)
            texts.append(text if ended else re.sub(r'(?<=[.!?"])[^.!?"]*$', "", text))
    return texts


def _score_card(texts: Sequence[str], training: Sequence[str]) -> dict[str, str]:
    """Sum up what the judge finds in the texts, and what stands in the training text."""
    from data.stories.judge import judge

    verdicts = [judge(text) for text in texts]
    words = sum(len(text.split()) for text in texts)
    wrong = sum(len(verdict.contradictions) for verdict in verdicts)
    faults = [slip for verdict in verdicts for slip in verdict.slips]
    longest, seen = _copied(texts, training)
    return {
        "words in a story, median": f"{statistics.median(len(t.split()) for t in texts):,.0f}",
        "facts that were needed and known": f"{sum(verdict.checked for verdict in verdicts):,}",
        "contradictions": f"{wrong:,}",
        "stories without a contradiction": f"{sum(not v.contradictions for v in verdicts):,}",
        "slips of grammar in 1,000 words": f"{1000 * len(faults) / max(1, words):.2f}",
        "words that the world does not have": f"{sum('no word' in slip for slip in faults):,}",
        "longest run of words from training": f"{longest:,}",
        f"runs of {RUN_OF_WORDS} words that training has": f"{seen:.1%}",
    }


def _copied(texts: Sequence[str], training: Sequence[str]) -> tuple[int, float]:
    """The longest run of words that the training text has too, and the share of 20-word runs."""
    import numpy as np

    numbers: dict[str, int] = {}
    source, *written = (
        np.array([numbers.setdefault(word, len(numbers)) for word in text.split()], np.uint64)
        for text in (" ".join(training), *texts)
    )

    def shared(length: int) -> list[bool]:
        """Of each run of so many words of the texts, whether the training text has it."""
        runs = np.concatenate([_runs(words, length) for words in written]).tolist()
        known = set(runs).intersection(_runs(source, length).tolist())
        return [run in known for run in runs]

    # Where n words in a row were copied, so were n - 1: the first length of which none was is found
    # by halving.
    lengths = range(1, max(map(len, written)) + 1)
    longest = bisect_left(lengths, True, key=lambda length: not any(shared(length)))
    seen = shared(RUN_OF_WORDS)
    return longest, sum(seen) / max(1, len(seen))


def _runs(words: "NDArray[np.uint64]", length: int) -> "NDArray[np.uint64]":
    """Hash each run of so many words to 64 bits (Karp and Rabin, 1987)."""
    count = max(0, len(words) - length + 1)
    hashes = words[:count] * 0
    for place in range(length):
        hashes = hashes * MULTIPLIER + words[place : place + count]
    return hashes


def _show(texts: Sequence[str]) -> None:
    """Print each text and what the judge says about it."""
    from data.stories.judge import judge

    for number, text in enumerate(texts):
        verdict = judge(text)
        print(f"--- story {number}\n{text}")
        for found in (*verdict.contradictions, *verdict.slips):
            print(f"  ! {found}")
        print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
