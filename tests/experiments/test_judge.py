"""experiments.judge and experiments.recall on small models: what they print, what they refuse."""

import json
from argparse import Namespace
from itertools import islice
from pathlib import Path

import pytest

from data.stories import story
from data.stories.world import split_of
from experiments import judge, recall
from experiments.story_run import StoryRun, open_story_run
from tests import tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: stories, stories with far facts, two mixtures, and another text."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text(tiny.english(8000))
    stories = ["data.path=null", "data.stories=40"]
    alone = ["data.source=stories", "data.split=document", *stories]
    mixed = f'data.mix={{stories: 3, "files:{text}": 1}}'
    unmixed = f'data.mix={{"files:{text}": 1}}'
    assert tiny.start(folder / "stories", text, *alone) == 0
    assert tiny.start(folder / "far", text, *alone, "data.near=200", "data.far=400") == 0
    assert tiny.start(folder / "mixed", text, "data.source=stories", mixed, *stories) == 0
    assert (
        tiny.start(folder / "unmixed", text, "data.source=stories", unmixed, "data.path=null") == 0
    )
    assert tiny.start(folder / "other", text) == 0
    return folder


def opened(run: Path) -> StoryRun:
    return open_story_run(Namespace(run=str(run), checkpoint="best"))


def test_score_card(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """True stories have no errors; those of a model after ten steps have many, and copy little."""
    file = runs / "judge.json"
    options = ["--stories", "3", "--max-tokens", "60", "--json", str(file)]
    assert judge.main([str(runs / "stories"), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    card = {line[:25].strip(): line[32:].split() for line in lines}
    assert card["language errors per 1,000"][-3:] == ["0.0", "0.0", "0.0"]
    assert float(card["language errors per 1,000"][0]) > 0
    assert int(card["longest copy, words"][0]) < 20
    assert "window: 8 tokens, reach through 2 layers: 15" in lines
    assert any("bootstrap resamples over stories" in line for line in lines)
    result = json.loads(file.read_text())
    assert result["stories"] == 3 and result["true"]["right"]["value"] == 1
    assert result["true"]["stories_without_contradiction"]["part"] == 3
    assert result["written"]["stories_without_contradiction"]["part"] == 0
    assert result["true"]["median_words"] == float(
        card["words in a story, median"][1].replace(",", "")
    )


def test_the_cards_of_several_runs_are_pooled(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run gives stories of its own, and its own true stories, to one card."""
    one, other = opened(runs / "stories"), opened(runs / "far")
    texts = [story(0, n).text for n in range(4)]
    alone = [judge.measure([run], [part]) for run, part in ((one, texts[:2]), (other, texts[2:]))]
    both = judge.measure([one, other], [texts[:2], texts[2:]])
    for name in ("written", "true", "shuffled"):
        whole = [getattr(result, name).right.whole for result in (*alone, both)]
        assert whole[0] + whole[1] == whole[2] > 0, name
    judge._print(both)
    assert "over runs and their stories" in capsys.readouterr().out


def test_copied_text_is_looked_for_in_the_stories_of_the_run(runs: Path) -> None:
    """With data.near and data.far of the run: a training story is copied as a whole."""
    for name, settings in (("stories", {}), ("far", {"near": 200, "far": 400})):
        text = story(0, 0, **settings).text
        result = judge.measure([opened(runs / name)], [[text]])
        assert result.written_copied.longest_run == len(text.split()), name
        assert result.written_copied.share == 1, name
        assert result.true_copied.longest_run < len(text.split()), name


def test_true_stories_are_unseen_ones_with_the_settings_of_the_run(runs: Path) -> None:
    unseen = [n for n in range(40, 200) if split_of(n) == "test"][:3]
    expected = [story(0, n, near=200, far=400) for n in unseen]
    assert list(islice(opened(runs / "far").unseen(), 3)) == expected


def test_a_mixture_with_stories_is_accepted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever data.source says, which a mixture replaces."""
    run = str(runs / "mixed")
    assert judge.main([run, "--stories", "2", "--max-tokens", "20"]) == 0
    assert recall.main([run, "--questions", "10"]) == 0
    assert "2 stories, beside as many true ones" in capsys.readouterr().out


def test_a_run_without_stories_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for module in (judge, recall):
        for name in ("unmixed", "other"):
            assert module.main([str(runs / name)]) == 2
            printed = capsys.readouterr()
            assert printed.out == ""
            assert printed.err == (
                f"error: {runs / name} was not trained on stories but on files: name a run with "
                "stories in data.source or data.mix\n"
            )


def test_what_is_copied() -> None:
    """Twenty words out of the middle of a training text, in a text of thirty."""
    training = [" ".join(f"w{n}" for n in range(100))]
    own = [f"x{n}" for n in range(5)]
    text = " ".join([*own, *training[0].split()[40:60], *own])
    assert judge._copied([text], training) == (20, 1 / 11)
    assert judge._copied(["w1 w2 w4"], training) == (2, 0.0)


@pytest.mark.parametrize("by", ["distance", "kind"])
def test_recall(by: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = runs / "recall.json"
    options = ["--questions", "40", "--by", by, "--json", str(file)]
    assert recall.main([str(runs / "stories"), *options]) == 0
    *_, chance, asked = capsys.readouterr().out.splitlines()
    assert sum(map(int, asked.split()[1:])) == 40
    assert all(cell == "-" or 0 < float(cell[:-1]) <= 50 for cell in chance.split()[2:])
    (run,) = json.loads(file.read_text())["runs"]
    assert run["windows"] == [8, 8]
    assert [str(column["questions"]) for column in run["columns"]] == asked.split()[1:]


def test_questions_can_be_limited_to_near_facts_and_seen_combinations(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of near facts that holds others, too; one of held-out stories that says seen."""
    run = opened(runs / "stories")
    near = recall.measure(run, 60, "distance", within=16)
    asked = {column.name: column.questions for column in near.columns}
    assert asked["1-8"] + asked["9-16"] == sum(asked.values()) == 60
    texts = [story(0, n).text for n in range(40, 400) if split_of(n) == "train"]
    for question in islice(recall._questions(run, "train"), 20):
        begun = run.trained.tokenizer.decode(question.tokens[1:])
        assert any(text.startswith(begun) for text in texts)
    options = ["--questions", "9", "--within", "16", "--combinations", "seen"]
    assert recall.main([str(runs / "stories"), *options]) == 0
    assert "at most 16 tokens back, combinations of hero, thing and plot seen;" in (
        capsys.readouterr().out
    )


def test_runs_with_other_distances_are_asked_other_questions(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chance and n stand once below runs that share them, else below each run."""
    stories, far, mixed = (str(runs / name) for name in ("stories", "far", "mixed"))
    assert recall.main([stories, mixed, far, "--questions", "40"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    labels = [line[0] for line in lines[2:]]
    assert labels == [stories, "without", mixed, "without", "by", "n", far, "without", "by", "n"]
    asked = [list(map(int, line[1:])) for line in lines if line[0] == "n"]
    assert [sum(row) for row in asked] == [40, 40]
    assert sum(asked[1][:3]) <= 1 < 5 < sum(asked[0][:3])  # 200 to 400 words are not near


def test_a_model_with_a_perfect_memory_would_score_100_percent(runs: Path) -> None:
    """The right token is the next one of the text, and it is not among the wrong ones."""
    run = opened(runs / "stories")
    texts = [story(0, n).text for n in range(40, 1200) if split_of(n) == "test"]
    for question in islice(recall._questions(run, "test"), 40):
        begun = run.trained.tokenizer.decode([*question.tokens[1:], question.right])
        assert any(text.startswith(begun) for text in texts)
        assert question.right not in question.wrong
        hidden = len(question.tokens) - len(question.without_fact)
        assert question.tokens[hidden + 1 :] == question.without_fact[1:]
        assert question.distance == len(question.without_fact)


def test_options_out_of_range(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs / "stories")
    assert judge.main([run, "--stories", "0"]) == 2
    assert judge.main([run, "--max-tokens", "0"]) == 2
    assert recall.main([run, "--questions", "0"]) == 2
    assert recall.main([run, "--within", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 4
