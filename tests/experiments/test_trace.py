"""experiments.trace: causal patching, paths of hops, and the cases that are traced."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from experiments import trace, trace_cases
from experiments.pages.page import page
from experiments.patching import Patching
from experiments.result import load
from experiments.story_run import story_run
from experiments.trace_result import TraceResult
from inference.trained import open_trained
from tests import tiny
from tests.model import small

TEXT = small.text(14)[0]


def patching(window: Any, source: int, **changes: Any) -> Patching:
    """Patch a random model of three layers (or of n_layers) over a text of 14 tokens."""
    other = TEXT.clone()
    other[source] = (other[source] + 1) % small.VOCAB
    return Patching(small.build(window, **changes), TEXT, other, 5)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on stories after ten steps, window 8."""
    folder = tmp_path_factory.mktemp("stories")
    more = ["data.source=stories", "data.split=document", "data.path=null", "data.stories=40"]
    assert tiny.start(folder / "run", folder, *more, "data.seq_len=64") == 0
    return folder / "run"


@pytest.mark.parametrize("window", [3, 6, None, (2, None, 4)])
@pytest.mark.parametrize("changes", [{}, {"sink_token": True}, {"attention_sinks": 2}])
def test_all_places_of_a_boundary_restore_the_whole_effect(window: Any, changes: Any) -> None:
    """Shares are meaningless if all together, or the source alone, do not give 100 %."""
    found = patching(window, 9, **changes)
    assert found.effect != 0
    for boundary in range(4):
        for positions in (range(14), found.differs(boundary)):
            assert found.restored(boundary, positions) == pytest.approx(1, abs=1e-9)
    shares = found.node_shares()
    assert shares[0][9] == pytest.approx(1) and shares[-1][13] == pytest.approx(1)
    assert all(share == 0 for row in shares for share in row[:9])
    assert sum(map(bool, shares[0])) == sum(map(bool, shares[-1])) == 1


def test_the_effect_is_the_change_of_the_models_prediction() -> None:
    model, other = small.build(6), TEXT.clone()
    other[9] = (other[9] + 1) % small.VOCAB
    found = patching(6, 9)
    clean, corrupted = (model(x[None])[0, -1].softmax(-1)[5].log2().detach() for x in (TEXT, other))
    assert found.clean_bits == pytest.approx(float(clean), abs=1e-12)
    assert found.effect == pytest.approx(float(clean - corrupted), abs=1e-12)


@pytest.mark.parametrize("window", [2, 3, 4])
def test_at_the_wall_one_path_is_left_and_it_carries_everything(window: int) -> None:
    """The only way is W - 1 tokens in each layer: a wrong hop, or a lost one, gives less."""
    found = patching(window, 13 - 3 * (window - 1))
    path, carried = found.path([window] * 3, found.node_shares())
    assert [b - a for a, b in pairwise(path)] == [window - 1] * 3
    assert carried == pytest.approx([1] * 4, abs=1e-6)
    beyond = patching(window, 13 - 3 * (window - 1) - 1)
    assert beyond.effect == 0 and 13 not in beyond.differs(3)


def test_one_layer_has_one_path() -> None:
    found = patching(6, 9, n_layers=1)
    assert found.along(0, [9], [13]) == pytest.approx([1], abs=1e-9)
    assert found.path([6], found.node_shares()) == ([9, 13], pytest.approx([1, 1]))


def test_places_are_patched_one_at_a_time() -> None:
    """Rows of a batch could be mixed up: each place alone must give the same."""
    found = patching(None, 4)
    places = found.differs(1)
    together = found.along(1, places, [12, 13])
    assert len(places) == 10 and len(set(together)) > 5
    alone = [found.along(1, [place], [12, 13])[0] for place in places]
    assert together == pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize("window", [3, 4, 6, None, (2, None, 4), (5, 1, 3)])
def test_hops_stay_inside_the_windows(window: Any) -> None:
    """From the source to the target, never backwards, at most W - 1 tokens in a layer."""
    for source in (9, 10, 12):
        found = patching(window, source)
        if found.effect == 0:
            continue
        windows = small.windows(found.model.config)
        path, carried = found.path(windows, found.node_shares())
        assert path[0] == source and path[-1] == 13 and len(path) == len(carried) == 4
        for (a, b), w in zip(pairwise(path), windows, strict=True):
            assert 0 <= b - a <= (14 if w is None else w - 1)
        assert carried[0] == found.along(0, [source], path[1:])[0]


def test_a_given_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The source is outside the window, the answer the last token, and the result is stored."""
    file = run / "trace_all.json"
    text = "the old king walks under a bridge"
    assert trace.main([str(run), text, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    about, result = load(run / "report" / "trace.json", TraceResult)
    assert "outside the window of 8" in printed and result.distance >= 8
    assert len(result.tokens) == len(text) and result.answer == "e"
    assert f"[{result.tokens[result.source[0]]}]" in printed
    assert all(0 <= b - a <= 7 for a, b in pairwise(result.path))
    assert json.loads(file.read_text())["path"] == list(result.path)
    html = page("trace", [], [trace.section(about, result)])
    assert html.count("<svg") == 1 and html.count("curve s1") >= 2 and "8 keys" in html


def test_source_word_and_place(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options name the same tokens in two ways; inside the window nothing has to travel."""
    text, file = "an old king sings", run / "report" / "trace.json"
    assert trace.main([str(run), text, "--word", "king", "--replace", "fool", "--at", "15"]) == 0
    printed = capsys.readouterr().out
    assert "' king'" not in printed and "'king' is replaced by 'fool'" in printed
    assert load(file, TraceResult)[1].source == (7, 8, 9, 10, 11)[-len(" king") :]
    assert trace.main([str(run), text, "--source", "14", "--predict"]) == 0
    assert "inside the window of 8: nothing has to travel" in capsys.readouterr().out
    assert len(load(file, TraceResult)[1].tokens) == 1 + len(text)


def test_a_source_of_a_space(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The space was shown as two pairs of brackets, or as nothing."""
    assert trace.main([str(run), "an old king sings", "--source", "12"]) == 0
    printed = capsys.readouterr().out
    assert "king[ ]sing ->s" in printed and "without ' '" in printed and "''" not in printed


def test_cases_of_stories(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One fact is replaced, further back than the window; a model of ten steps knows none."""
    run = story_run(str(stories), open_trained(stories))
    case, found = trace_cases.find_case(run, 60, 8)
    assert not found and case.distance >= 8 and len(case.clean) <= 64
    decode = run.trained.tokenizer.decode
    changed = [n for n, pair in enumerate(zip(case.clean, case.corrupted, strict=True))
               if len(set(pair)) > 1]  # fmt: skip
    assert changed == list(case.source)
    right, word = case.note.partition(": ")[2].split(" is replaced by ")
    assert right in decode(case.clean) and right not in decode(case.corrupted)
    assert word in decode(case.corrupted)
    assert trace.main([str(stories), "--questions", "60"]) in (0, 2)
    printed = capsys.readouterr()
    assert "none right only because" in printed.out or "stays the same" in printed.err


def test_what_is_refused(run: Path, stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "the old king walks"
    for words in (
        [str(run / "nowhere")], [str(run)], [str(run), "a"], [str(run), "", "--predict"],
        [str(run), text, "--at", "99"], [str(run), text, "--source", "99"],
        [str(run), text, "--word", "queen"],
        [str(run), text, "--word", "old", "--replace", "young"],
        [str(run), text, "--replace", "young"], [str(run), text, "--at", "5", "--predict"],
        [str(run), text, "--word", "old", "--source", "3"], [str(run), "--word", "old"],
        [str(run), "--source", "0"], [str(run), "--at", "0"],
        [str(stories), "--questions", "0"], [str(run), text, "--seed", "-1"],
        [str(run), text * 3, "--source", "2"],
    ):  # fmt: skip
        assert trace.main(words) == 2, words
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and len(printed.err) > 20
