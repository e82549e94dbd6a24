"""experiments.judge and experiments.recall on a small model: what they print, what they refuse."""

from pathlib import Path

import pytest

from experiments import judge, recall
from tests import tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on stories, and one on another text."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text(tiny.english(4000))
    stories = ["data.source=stories", "data.stories=40", "data.path=null", "data.split=document"]
    assert tiny.start(folder / "stories", text, *stories) == 0
    assert tiny.start(folder / "other", text) == 0
    return folder / "stories", folder / "other"


def test_score_card(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """True stories have no fault, what ten steps wrote has many, and copies nothing long."""
    assert judge.main([str(runs[0]), "--stories", "3", "--max-tokens", "60"]) == 0
    card = {line[:44].strip(): line[44:].split() for line in capsys.readouterr().out.splitlines()}
    assert card["contradictions"][1] == "0"
    assert card["stories without a contradiction"][1] == "3"
    written, true = map(float, card["slips of grammar in 1,000 words"])
    assert true == 0 and written > 0
    assert int(card["longest run of words from training"][0]) < 20


def test_what_is_copied() -> None:
    """Twenty words out of the middle of a training text, in a text of thirty."""
    training = [" ".join(f"w{n}" for n in range(100))]
    own = [f"x{n}" for n in range(5)]
    text = " ".join([*own, *training[0].split()[40:60], *own])
    assert judge._copied([text], training) == (20, 1 / 11)
    assert judge._copied(["w1 w2 w4"], training) == (2, 0.0)


@pytest.mark.parametrize("by", ["distance", "kind"])
def test_recall(by: str, runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert recall.main([str(runs[0]), "--questions", "40", "--by", by]) == 0
    *_, chance, asked = capsys.readouterr().out.splitlines()
    assert sum(map(int, asked.split()[1:])) == 40
    assert all(cell == "-" or 0 < float(cell[:-1]) <= 50 for cell in chance.split()[2:])


def test_a_perfect_memory_is_always_right(runs: tuple[Path, Path]) -> None:
    """The right token is where the text has it: a model that knew the text would score 100 %."""
    from data.stories.telling import story
    from data.stories.world import split_of
    from inference.trained import open_trained

    opened = open_trained(runs[0])
    texts = [story(0, n).text for n in range(40, 1200) if split_of(n) == "test"]
    for question in recall._questions(opened, 40):
        begun = opened.tokenizer.decode([*question.tokens[1:], question.right])
        assert any(text.startswith(begun) for text in texts)
        assert question.right not in question.wrong
        hidden = len(question.tokens) - len(question.behind)
        assert question.tokens[hidden + 1 :] == question.behind[1:]
        assert question.distance == len(question.behind)


def test_silly_input(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for module in (judge, recall):
        assert module.main([str(runs[1])]) == 2
        assert "was not trained on stories" in capsys.readouterr().err
    assert judge.main([str(runs[0]), "--stories", "0"]) == 2
    assert recall.main([str(runs[0]), "--questions", "0"]) == 2
