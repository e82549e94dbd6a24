"""experiments.judge on small models: what they print, what they refuse."""

import json
from argparse import Namespace
from itertools import islice
from pathlib import Path

import pytest

from data.stories import story
from data.stories.world import split_of
from experiments import judge
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
    assert "2 stories, beside as many true ones" in capsys.readouterr().out


def test_a_run_without_stories_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("unmixed", "other"):
        assert judge.main([str(runs / name)]) == 2
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


def test_options_out_of_range(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs / "stories")
    assert judge.main([run, "--stories", "0"]) == 2
    assert judge.main([run, "--max-tokens", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
