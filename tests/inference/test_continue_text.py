"""inference/text.py: the text is the model's, each row ends on its own, a last space is joined."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from drawn_model import save

from data.tokenizer import Tokenizer
from data.vocabulary import train_tokenizer
from inference.text import Piece, TextModel, TextStream, continue_text
from inference.trained import TrainedModel, open_trained
from model import Sampling, generate
from model.decoding import Decoder

GREEDY = Sampling(temperature=0)
PROMPTS = ["The old king", "a", "", "Because the river sings under the bridge"]  # of many lengths


def texts(pieces: Sequence[Piece], rows: int) -> list[str]:
    """Return the whole text of each row."""
    return ["".join(piece.text for piece in pieces if piece.row == row) for row in range(rows)]


def reasons(pieces: Sequence[Piece], rows: int) -> list[list[str | None]]:
    """Return the finish reasons of each row's pieces."""
    return [[p.finish_reason for p in pieces if p.row == row] for row in range(rows)]


def by_hand(trained: TextModel, prompt: list[int], count: int, *, space: bool = False) -> list[int]:
    """Return the most likely tokens, from the logits of the whole text at each step. With `space`,
    the first token is the most likely of those whose bytes begin with a space."""
    ids = list(prompt)
    for n in range(count):
        with torch.no_grad():
            logits = trained.model(torch.tensor([ids]))[0, -1]
        order = logits.argsort(descending=True).tolist()
        if space and n == 0:
            order = [id for id in order if trained.tokenizer.token_bytes(id)[:1] == b" "]
        ids.append(order[0])
        if order[0] in (trained.tokenizer.bos_id, trained.tokenizer.eos_id):
            break
    return ids[len(prompt) :]


def framed(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return [tokenizer.bos_id, *tokenizer.encode(prompt)]


# ------------------------------------------------------------------- the text of each row


def test_rows_of_many_lengths_are_continued_as_if_alone(trained: TrainedModel) -> None:
    """The greedy text of a batch must be that of the model run on the whole text for each token."""
    pieces = list(continue_text(trained, PROMPTS, max_tokens=15, sampling=GREEDY))
    expected = [by_hand(trained, framed(trained.tokenizer, prompt), 15) for prompt in PROMPTS]
    assert texts(pieces, 4) == [trained.tokenizer.decode(ids) for ids in expected]
    assert [len(row) for row in reasons(pieces, 4)] == [len(ids) for ids in expected]


def test_a_row_ends_where_its_document_ends(trained: TrainedModel) -> None:
    """Text after BOS or EOS belongs to another document. The tokens are those of `generate`."""
    tokenizer = trained.tokenizer
    ends = (tokenizer.bos_id, tokenizer.eos_id)
    varied = Sampling(temperature=2.0)
    prompts = ["The old"] * 12
    steps = list(
        generate(trained.model, [framed(tokenizer, p) for p in prompts], 60, sampling=varied,
                 seed=3, stop=ends)
    )  # fmt: skip
    rows = [[step[row] for step in steps if step[row] is not None] for row in range(12)]
    assert {row[-1] in ends for row in rows} == {True, False}  # both ways to end occur
    pieces = list(continue_text(trained, prompts, max_tokens=60, sampling=varied, seed=3))
    assert texts(pieces, 12) == [tokenizer.decode([t for t in row if t is not None])
                                 for row in rows]  # fmt: skip
    for row, actual in zip(rows, reasons(pieces, 12), strict=True):
        last = "end" if row[-1] in ends else "length"
        assert actual == [None] * (len(row) - 1) + [last]


def test_a_stop_string_ends_its_row_alone(trained: TrainedModel) -> None:
    """A row that stops early must neither stop the other rows nor change them."""
    options = {"max_tokens": 25, "sampling": Sampling(temperature=1.0), "seed": 1}
    whole = texts(list(continue_text(trained, PROMPTS, **options)), 4)  # type: ignore[arg-type]
    stop = whole[0][8:13]
    assert stop not in whole[1]
    pieces = list(continue_text(trained, PROMPTS, **options, stops=[stop]))  # type: ignore[arg-type]
    assert texts(pieces, 4) == [text.partition(stop)[0] for text in whole]
    for text, actual in zip(whole, reasons(pieces, 4), strict=True):
        assert (actual[-1] == "stop") == (stop in text)
        assert actual[:-1] == [None] * (len(actual) - 1)


def test_nothing_is_generated_after_all_rows_have_ended(
    trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that no caller gets would cost as much as the others."""
    calls: list[int] = []
    read = Decoder.read

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return read(*arguments, **options)

    monkeypatch.setattr(Decoder, "read", counted)
    whole = "".join(p.text for p in continue_text(trained, ["a"], max_tokens=200, sampling=GREEDY))
    n_all = len(calls)
    calls.clear()
    list(continue_text(trained, ["a"], max_tokens=200, sampling=GREEDY, stops=[whole[:2]]))
    assert len(calls) < 5 < n_all


# ------------------------------------------------------------------- a prompt that ends in a space


@pytest.mark.parametrize("prompt", ["The old king ", " ", "The  ", "a\n "])
def test_a_last_space_is_joined_to_the_first_token(trained: TrainedModel, prompt: str) -> None:
    """The model has rarely seen a single space as a token, and continues it badly."""
    tokenizer = trained.tokenizer
    short = framed(tokenizer, prompt[:-1])
    expected = by_hand(trained, short, 10, space=True)
    pieces = list(continue_text(trained, [prompt], max_tokens=10, sampling=GREEDY))
    assert prompt + texts(pieces, 1)[0] == tokenizer.decode([*short, *expected])
    assert len(pieces) == len(expected)


def test_a_last_space_changes_no_other_row(trained: TrainedModel) -> None:
    """Only the row whose prompt ends in a space must begin with one."""
    prompts = ["Th", "The old ", "nev"]
    pieces = list(continue_text(trained, prompts, max_tokens=8, sampling=GREEDY))
    alone = [
        texts(list(continue_text(trained, [p], max_tokens=8, sampling=GREEDY)), 1)[0]
        for p in prompts
    ]
    assert texts(pieces, 3) == alone
    free = by_hand(trained, framed(trained.tokenizer, "Th"), 8)
    assert alone[0] == trained.tokenizer.decode(free)
    assert trained.tokenizer.token_bytes(free[0])[:1] != b" "  # so this test can fail


def test_a_drawn_first_token_begins_with_a_space(trained: TrainedModel) -> None:
    """At a high temperature all pieces are drawn. None may continue the last word of the prompt."""
    prompts, tokenizer = ["The king "] * 30, trained.tokenizer
    varied = Sampling(temperature=5.0)
    for piece in continue_text(trained, prompts, max_tokens=1, sampling=varied):
        ids = tokenizer.encode("The king " + piece.text)
        assert ids[: len(tokenizer.encode("The king"))] == tokenizer.encode("The king")


def test_the_space_of_the_prompt_is_no_stop(trained: TrainedModel) -> None:
    """A stop string must be searched in the generated text, not in the prompt."""
    whole, cut = (
        texts(list(continue_text(trained, ["The old "], max_tokens=9, sampling=GREEDY, stops=s)), 1)
        for s in ([], [" "])
    )
    assert cut[0] == whole[0].partition(" ")[0]


def test_a_vocabulary_of_characters_keeps_the_space(tmp_path: Path) -> None:
    """In such a vocabulary a single space is an ordinary token, and any token may follow it."""
    characters = train_tokenizer([tiny.english(5000)], type="char", vocab_size=400)
    trained = open_trained(save(tmp_path, characters))
    ids = by_hand(trained, framed(trained.tokenizer, "The old "), 6)
    assert trained.tokenizer.token_bytes(ids[0]) != b" "  # so this test can fail
    pieces = list(continue_text(trained, ["The old "], max_tokens=6, sampling=GREEDY))
    assert texts(pieces, 1) == [trained.tokenizer.decode(ids)]


# ------------------------------------------------------------------- stop strings


class Pieces:
    """A token stream whose token n is the n-th of these pieces."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def push(self, token: int) -> str:
        return self.pieces[token]

    def flush(self) -> str:
        return ""


def streamed(stops: list[str], *pieces: str) -> tuple[list[str], str]:
    """Push all pieces; return the text of each step, and the whole text."""
    stream = TextStream(Pieces(*pieces), stops)
    out = []
    for token in range(len(pieces)):
        if not stream.stopped:
            out.append(stream.push(token))
    out.append(stream.flush())
    return out, "".join(out)


def test_a_stop_string_that_is_split_over_tokens() -> None:
    """The first half of the stop string could already be printed."""
    assert streamed(["\nROMEO"], "Ay me\n", "RO", "MEO:", " no") == (["Ay me", "", "", ""], "Ay me")


def test_the_beginning_of_a_stop_string_is_released() -> None:
    """Text could be held back too long, or be lost at the end."""
    assert streamed(["\nROMEO"], "a\nRO", "SE", "\n") == (["a", "\nROSE", "", "\n"], "a\nROSE\n")


def test_the_earliest_of_several_stops_wins() -> None:
    """The first stop string of the list could win."""
    assert streamed(["later", "now"], "go now or later")[1] == "go "


def test_stops_against_a_plain_search() -> None:
    """The text must end before the stop string that is complete first, wherever tokens end."""
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choice("ab") for _ in range(30))
        stops = ["".join(draw.choice("ab") for _ in range(draw.randint(1, 6))) for _ in range(2)]
        cuts = sorted(draw.sample(range(1, 30), 8))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 30], strict=True)]
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        assert streamed(stops, *pieces)[1] == text[: min(ends, default=(30, 30))[1]]
