"""experiments.recall on small models: what it asks, how it counts, what it prints and refuses."""

import copy
from argparse import Namespace
from itertools import product
from pathlib import Path

import pytest
import torch

from data.stories import story
from data.stories.world import split_of
from experiments import recall, recall_answers, story_questions
from experiments.intervals import Interval
from experiments.pages.charts import HeatMap
from experiments.pages.page import page
from experiments.recall_answers import HOPS, Counts, RunAnswers, answer_all, hop_of, layer_logits
from experiments.recall_page import section, tables
from experiments.recall_results import RecallResult, gain, group_recall, survival
from experiments.result import load
from experiments.story_questions import Question, draw_questions
from experiments.story_run import StoryRun, open_story_run
from inference.trained import TrainedModel
from model import ModelConfig, Transformer
from model.window import visible
from tests import tiny


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A sweep: two seeds of a window of 8, one of 4, all of stories."""
    folder = tmp_path_factory.mktemp("sweep")
    alone = ["data.source=stories", "data.split=document", "data.path=null", "data.stories=40"]
    alone += ["data.far=20", "train.max_steps=4"]
    for window, seed in ((8, 0), (8, 1), (4, 0)):
        words = [f"seed={seed}", f"model.sliding_window={window}"]
        assert tiny.start(folder / f"window-{window}" / f"seed-{seed}", text, *alone, *words) == 0
    return folder


def opened(run: Path) -> StoryRun:
    return open_story_run(Namespace(run=str(run), checkpoint="best"))


def some_questions(run: StoryRun, n: int = 24, split: str = "test") -> list[Question]:
    def column(kind: str, distance: int) -> int | None:
        return distance // 8 if distance < 64 else None

    asked = draw_questions(run, column, 8, 3, split=split)
    return [question for column in asked for question in column][:n]


def stored(folder: Path) -> RecallResult:
    return load(folder / "report" / "recall.json", RecallResult)[1]


# ---------------------------------------------------------------------------- the questions


@pytest.mark.parametrize("split", ["test", "train"])
def test_a_model_with_a_perfect_memory_would_score_100_percent(sweep: Path, split: str) -> None:
    """The right token is the next one of the text; a question of a story that was trained on."""
    run = opened(sweep / "window-8/seed-0")
    texts = [story(0, n, far=20).text for n in range(40, 400) if split_of(n) == split]
    for question in some_questions(run, split=split):
        begun = run.trained.tokenizer.decode([*question.tokens[1:], question.right])
        assert any(text.startswith(begun) for text in texts)
        assert question.right not in question.wrong
        hidden = len(question.tokens) - len(question.without_fact)
        assert question.tokens[hidden + 1 :] == question.without_fact[1:]
        assert question.distance == len(question.without_fact)


def test_distance_and_span_enclose_the_fact(sweep: Path) -> None:
    """The fact is the tokens from `span` to `distance` keys back, neither more nor fewer: else a
    fact that a window cuts would count as seen or as hidden."""
    run = opened(sweep / "window-8/seed-0")
    tokenizer, found = run.trained.tokenizer, 0
    text, probes = story(0, 59, far=20)
    for probe in probes:
        for question in story_questions.story_questions(tokenizer, text, (probe,)):
            end = len(question.tokens) + 1
            fact = question.tokens[end - question.span - 1 : end - question.distance]
            assert tokenizer.decode(fact).strip() == text[slice(*probe.fact)]
            found += 1
    assert found > 3


def test_columns_are_filled_evenly(sweep: Path) -> None:
    """Far facts are rare in stories; a column of few of them has a wide interval. Two questions of
    one story in a column are not independent."""
    run = opened(sweep / "window-8/seed-0")
    columns = draw_questions(run, lambda kind, n: n // 50 if n < 150 else None, 3, 7, far=40)
    assert [len(questions) for questions in columns] == [7, 7, 7]
    for n, questions in enumerate(columns):
        assert all(question.distance // 50 == n for question in questions)
        begins = {tuple(question.tokens[:60]) for question in questions}
        assert len(begins) == 7


def test_a_column_ends_at_each_window_and_wall() -> None:
    """A column on both sides of a limit mixes what can be remembered with what cannot."""
    assert recall.column_edges([(8,) * 4, (None,) * 4], None) == (
        1,
        5,
        9,
        17,
        30,
        65,
        129,
        257,
        513,
    )
    assert recall.column_edges([(8, 32)], 60) == (1, 5, 9, 17, 33, 40)
    assert recall.column_edges([(2,)], None)[:3] == (1, 3, 5)
    names = recall.names_of((1, 2, 9), None)
    assert names == ["1", "2-8", "9-"] and recall.names_of((1, 9), 16)[-1] == "9-16"


@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("windows", [(3, 3), (2, 4), (1, 1), (5,), (3, None)])
def test_hops_by_brute_force(windows: tuple[int | None, ...], sinks: int) -> None:
    """Which keys a layer sees, and which tokens arrive through all layers, found step by step. A
    fact after the sinks does not travel through them: sinks come before it."""
    query, arrives = 20, {20}
    for w in reversed(windows):
        arrives |= {j for i in arrives for j in range(i + 1) if visible(i, j, w, sinks)}
    one_layer = {j for j in range(query + 1) for w in windows if visible(query, j, w, sinks)}
    for first, length in product(range(sinks, query + 1), (1, 2, 3)):
        fact = set(range(first, min(first + length, query + 1)))
        question = Question("", [], [], 0, [], query - max(fact) + 1, query - first + 1)
        within, above = fact <= one_layer, not fact & one_layer
        expected = 0 if within else 1 if above and fact <= arrives else None
        expected = 2 if not fact & arrives else expected
        assert hop_of(question, windows) == expected


# ---------------------------------------------------------------------------- the answers


def test_answers_by_hand(sweep: Path) -> None:
    """One text at a time, without padding or cut: a wrong order, a neighbour's row."""
    run = opened(sweep / "window-8/seed-0")
    asked = some_questions(run, 20)
    answers = answer_all(run, [asked[:6], asked[6:], []])
    for column, questions in zip(answers.columns, (asked[:6], asked[6:], []), strict=True):
        right = []
        for question in questions:
            for text in (question.tokens, question.without_fact):
                last = run.trained.model(torch.tensor([text]))[0, -1]
                right.append(bool(last[question.right] > last[question.wrong].max()))
        assert column.questions == len(questions)
        assert column.right == sum(right[::2]) == (column.by_layer or (0,))[-1]
        assert column.right_without_fact == sum(right[1::2])
        assert column.right - column.right_without_fact == (
            column.only_with_fact - column.only_without_fact
        )
        assert column.by_chance == pytest.approx(sum(1 / (1 + len(q.wrong)) for q in questions))
    assert sum(hop.questions for hop in answers.hops) + answers.between == 20
    beyond = answers.hops[HOPS.index("beyond the wall")]
    assert beyond.questions > 5
    assert beyond.only_with_fact == beyond.only_without_fact == 0  # THE RULE


@pytest.mark.parametrize("sink_token", [False, True])
def test_the_stream_after_a_layer_is_a_shorter_model(sink_token: bool) -> None:
    """A layer too early or too late, a row's padding in place of its last token."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=50, dim=16, n_layers=3, n_heads=2, sliding_window=[4, None],
        sink_token=sink_token,
    )  # fmt: skip
    model = Transformer(config).requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(std=0.3)
    trained = TrainedModel(model, None, None, None)  # type: ignore[arg-type]
    texts = [[3, 1, 4, 1, 5, 9, 2, 6], [2, 7], [8, 2, 8, 1, 8]]
    found = list(layer_logits(trained, texts))
    for n in range(3):
        shorter = copy.copy(model)
        shorter._modules = {**model._modules, "layers": model.layers[: n + 1]}
        for text, logits in zip(texts, found, strict=True):
            torch.testing.assert_close(logits[n], shorter(torch.tensor([text]))[0, -1])
    assert not any(layer._forward_hooks for layer in model.layers)


def test_full_attention_is_not_asked_beyond_its_trained_length(sweep: Path) -> None:
    """Its text would be cut inside or after the fact, and the column would say it forgets."""
    run = opened(sweep / "window-8/seed-0")
    full = StoryRun(run.path, run.trained.with_settings(sliding_window=[8, None]))
    asked = some_questions(run, 20)
    answers = answer_all(full, [asked])
    near = sum(question.span <= 32 for question in asked)
    assert 0 < answers.hops[0].questions == answers.columns[0].questions == near < 20


def test_sinks_stay_in_the_text(sweep: Path) -> None:
    """Of a long text the beginning would be cut off, and other tokens become the sinks; a fact in
    the sinks would be seen beyond the wall."""
    run = opened(sweep / "window-8/seed-0")
    asked = some_questions(run, 20)
    sinks = sorted(len(question.tokens) - question.span for question in asked)[5]
    with_sinks = StoryRun(run.path, run.trained.with_settings(attention_sinks=sinks))
    fair = [question for question in asked if len(question.tokens) - question.span >= sinks]
    assert 10 < len(fair) < 20 and any(len(question.tokens) > 64 for question in fair)
    answers = answer_all(with_sinks, [asked])
    right = 0
    for question in fair:
        last = with_sinks.trained.model(torch.tensor([question.tokens]))[0, -1]
        right += bool(last[question.right] > last[question.wrong].max())
    assert (answers.columns[0].questions, answers.columns[0].right) == (len(fair), right)


# ---------------------------------------------------------------------------- the statistics


def test_shares_over_runs_and_over_questions() -> None:
    """Pooled questions in place of runs, an unpaired difference, the wrong divisor."""
    near = [Counts(10, 9, 1, 8, 0, 1.0, (5, 9)), Counts(10, 8, 2, 7, 1, 1.0, (6, 8))]
    far = [Counts(20, 6, 2, 5, 1, 2.0, (2, 6)), Counts(20, 4, 2, 3, 1, 2.0, (1, 4))]
    runs = [
        RunAnswers((8, 8), 32, (n, f), (n, f, Counts()), 3) for n, f in zip(near, far, strict=True)
    ]
    group = group_recall("window-8", ["a", "b"], runs)
    first = group.columns[0]
    half = 12.706 * 0.05  # t of one degree of freedom, times the standard error of 0.9 and 0.8
    assert first.right is not None and first.difference is not None
    assert first.right.mean == pytest.approx(0.85) and first.right.high == 1.0
    assert first.right.low == pytest.approx(0.85 - half, abs=1e-4)
    assert first.difference.mean == pytest.approx((0.8 + 0.6) / 2)
    assert first.by_layer == pytest.approx((0.55, 0.85)) and first.by_chance == 0.1
    assert group.hops[2].right is None
    ratios = 0.2 / 0.8, 0.1 / 0.6
    assert group.survives is not None
    assert group.survives.mean == pytest.approx(sum(ratios) / 2) and group.survives.n == 2
    one = group_recall("one", ["a"], runs[:1])
    assert one.columns[0].right == Interval(0.9, pytest.approx(0.5958, abs=1e-4),
                                            pytest.approx(0.9821, abs=1e-4), 10)  # fmt: skip
    assert one.survives is not None and one.survives.low is not None
    assert one.survives.mean == ratios[0] and one.survives.low < ratios[0]
    assert survival([(near[0], Counts(), Counts())]) is None
    assert survival([(Counts(9, 1, 1), far[0], Counts())]) is None
    assert gain(near[0]) == 0.8


def test_the_interval_of_a_ratio_is_that_of_its_questions() -> None:
    """0.2 of 400 over 1.0 of 400: the spread is the numerator's, 1.96 * sqrt(0.2 * 0.8 / 400)."""
    ratio = survival([(Counts(400, 400, 0, 400), Counts(400, 80, 0, 80), Counts())])
    assert ratio is not None and ratio.low is not None and ratio.high is not None
    assert ratio.low == pytest.approx(0.2 - 0.0392, abs=0.004)
    assert ratio.high == pytest.approx(0.2 + 0.0392, abs=0.004)


# ---------------------------------------------------------------------------- the command


def test_a_sweep_is_stored_printed_and_drawn(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group's runs apart, a table that is not the stored one; a second call that asks again."""
    monkeypatch.setattr(story_questions, "STORIES", 100)
    options = [str(sweep), "--within", "60", "--questions", "40"]
    assert recall.main(options) == 0
    printed = capsys.readouterr().out
    result = stored(sweep)
    assert [(group.name, len(group.runs)) for group in result.groups] == [
        ("window-4", 1), ("window-8", 2)
    ]  # fmt: skip
    assert result.edges[:4] == (1, 5, 8, 9)  # W + 1 and reach + 1 of both
    assert result.far is None and "back, unlike in training" not in printed  # data.far will do
    assert "so the intervals of one run are too narrow" in printed
    for table in tables(result):
        assert table.markdown() in printed
    assert "window-8: beyond the wall (14)" in printed
    assert printed.splitlines()[-1] == f"picture: python -m experiments.report {sweep}"
    about, _ = load(sweep / "report" / "recall.json", RecallResult)
    drawn = page("", [], [section(about, result)])
    assert drawn.count("<svg") == 3 and "wall 14" in drawn
    heat = section(about, result).charts[-1]
    assert isinstance(heat, HeatMap) and heat.rows == ["0 (8)", "1 (15)"]

    def asked_again(*_: object) -> RunAnswers:
        raise KeyError

    monkeypatch.setattr(recall, "answer_all", asked_again)
    assert recall.main(options) == 0  # all parts are there
    assert stored(sweep) == result
    with pytest.raises(KeyError):
        recall.main([*options[:-1], "50"])
    parts = sorted((sweep / "window-8/seed-0/report/parts").iterdir())
    parts[0].write_text("{")  # torn by another program
    with pytest.raises(KeyError):
        recall.main(options)


def test_kinds_near_facts_and_seen_combinations(
    sweep: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table of near facts that holds others, too; one of held-out stories that says seen."""
    monkeypatch.setattr(story_questions, "STORIES", 300)
    run = str(sweep / "window-4/seed-0")
    options = ["--by", "kind", "--within", "16", "--combinations", "seen", "--questions", "30"]
    assert recall.main([run, *options, "--json", str(tmp_path / "x.json")]) == 0
    printed = capsys.readouterr().out
    assert "facts at most 16 tokens back, combinations of hero, thing and plot seen;" in printed
    (group,) = stored(Path(run)).groups
    kinds = {name: c.questions for name, c in zip(recall.KINDS, group.columns, strict=True)}
    assert 5 >= kinds["place"] > 0 == kinds["holder"]
    assert {"colour", "place"} <= {line.split()[1] for line in printed.splitlines() if "|" in line}
    assert (tmp_path / "x.json").stat().st_size > 1000


def test_runs_of_a_group_have_the_same_windows(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mean over windows of 4 and 8."""
    (tmp_path / "mixed").mkdir()
    for seed, window in enumerate((4, 8)):
        (tmp_path / "mixed" / f"seed-{seed}").symlink_to(sweep / f"window-{window}/seed-0")
    assert recall.main([str(tmp_path)]) == 2
    assert "have different windows" in capsys.readouterr().err


def test_no_question_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback, or an empty result in place of a good one."""
    monkeypatch.setattr(story_questions, "STORIES", 20)
    run = sweep / "window-8/seed-1"
    assert recall.main([str(run), "--within", "1"]) == 2
    error = f"error: {run}: of 20 stories, none has a fact that can be asked for: "
    assert capsys.readouterr().err.splitlines()[-1].startswith(error)
    assert not (run / "report/recall.json").exists()


def test_stories_unlike_those_of_training_are_named(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recall of longer stories could be taken for that of stories as in training."""
    monkeypatch.setattr(story_questions, "STORIES", 20)
    options = ["--far", "50", "--within", "60", "--questions", "20"]
    assert recall.main([str(sweep / "window-4/seed-0"), *options]) == 0
    assert "stories with facts up to 50 words back, unlike in training" in capsys.readouterr().out


def test_what_is_refused(finished: Path, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback, or a table of nothing."""
    run = str(sweep / "window-4/seed-0")
    for option in ("--questions", "--within", "--far"):
        assert recall.main([run, option, "0"]) == 2
        assert capsys.readouterr().err == f"error: {option} is 0: give 1 or more\n"
    assert recall.main([run, "--far", "4"]) == 2
    assert "--far is 4, nearer than data.near of" in capsys.readouterr().err
    assert recall.main([str(finished)]) == 2
    assert "was not trained on stories but on files" in capsys.readouterr().err
    assert recall_answers.longest_text((8, 8), 32) == 32
    assert recall_answers.longest_text((8, 32), 32) == 78
    assert recall_answers.longest_text((8, 32), 32, sinks=1) is None
    assert recall_answers.longest_text((8, None), 32, sinks=1) == 32
