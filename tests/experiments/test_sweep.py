"""experiments/sweep.py: words for windows, equal budgets, and a table of what the runs measured."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from configs.load import load_config
from configs.settings import model_config
from errors import UserError
from experiments import sweep
from experiments.benchmarks.machine import describe_machine
from experiments.intervals import Interval
from experiments.pages.page import page
from experiments.result import About, load
from experiments.sweeps import speed
from experiments.sweeps.page import WindowResult
from experiments.sweeps.plan import Plan, with_steps
from experiments.sweeps.window_words import choices_of
from model.cost import flops_per_token
from model.window import visible
from scripts import evaluate
from training.metrics import read_metrics

STORIES = ["model.n_layers=4", "train.max_steps=100", "train.drill_steps=20", "data.seq_len=256"]
CONFIG = load_config(tiny.QUICKSTART, STORIES)
MORE = ["train.max_steps=2", "train.warmup_steps=1"]


def plan_of(words: str, equal: str, folder: Path, *more: str) -> Plan:
    """The plan of a sweep over these windows."""
    given = (tiny.QUICKSTART, *STORIES, *more)
    choices = choices_of([words], load_config(tiny.QUICKSTART, [*STORIES, *more]))
    return Plan(given, tuple(choices), 1, folder, equal, {})


# ---------------------------------------------------------------------------- words

WINDOWS = {  # word: its folder, and the windows of four layers
    "8": ("window-8", (8, 8, 8, 8)),
    "full": ("window-full", (None,) * 4),
    "[32,full]": ("window-32-full", (32, None, 32, None)),
    "[8,full,full]": ("window-8-full-full", (8, None, None, 8)),
    "[16,16]": ("window-16", (16,) * 4),
    "064": ("window-64", (64,) * 4),
    "rising:64": ("window-rising-64", (8, 16, 32, 64)),
    "falling:64": ("window-falling-64", (64, 32, 16, 8)),
    "rising:4": ("window-rising-4", (1, 1, 2, 4)),
    "constant:64": ("window-constant-64", (64,) * 4),
    "grow:64": ("window-grow-64", (64,) * 4),
    "grow:full": ("window-grow-full", (None,) * 4),
    "depth:64": ("window-depth-64", (64,) * 4),
    "random:64": ("window-random-64", (64,) * 4),
    "64+4": ("window-64-plus-4", (64,) * 4),
    "64+token": ("window-64-plus-token", (64,) * 4),
    "full+logits": ("window-full-plus-logits", (None,) * 4),
    "[8,full]+2+token+logits": ("window-8-full-plus-2-plus-token-plus-logits",
                                (8, None, 8, None)),
}  # fmt: skip


@pytest.mark.parametrize("word", WINDOWS)
def test_a_word_is_a_folder_and_windows(word: str, tmp_path: Path) -> None:
    """A word could train another window than its folder says, or be refused by the config."""
    plan = plan_of(word, "tokens", tmp_path)
    (choice,) = plan.choices
    config = plan.config(choice)
    folder, windows = WINDOWS[word]
    assert choice.folder == folder and config.run_dir == str(tmp_path / folder / "seed-0")
    assert model_config(config, 400).windows == windows


def test_words_set_schedules_and_sinks(tmp_path: Path) -> None:
    """Two words could train the same model under two names."""
    plan = plan_of("grow:64,random:64,constant:8,64+4+token,8+logits", "tokens", tmp_path)
    grow, random, constant, sinks, logits = map(plan.config, plan.choices)
    train = grow.train
    assert (train.window_schedule, train.window_from, train.window_steps) == ("grow", 8, 40)
    assert random.train.window_choices == (8, 16, 32, 64)
    assert constant.train.window_schedule == "constant"
    assert (sinks.model.attention_sinks, sinks.model.sink_token) == (4, True)
    assert logits.model.sink_logits and not logits.model.sink_token


def test_several_words_and_commas() -> None:
    """A comma inside brackets could split a pattern; a window named twice could train twice."""
    words = [c.word for c in choices_of(["8,[32, full],full", "8", "[8]", "64"], CONFIG)]
    assert words == ["8", "[32,full]", "full", "64"]


BAD = ["0", "-3", "wide", "8.5", "²", "[]", "[8", "8]", "[8,0]", "rising", "rising:full", "up:8",
       "random:full", "8+", "8+0", "8+many", "full+4", "9999999999999"]  # fmt: skip


@pytest.mark.parametrize("word", BAD)
def test_words_that_are_no_windows(word: str) -> None:
    """A traceback for a typo, or a window that nobody asked for."""
    with pytest.raises(UserError, match="--windows") as error:
        choices_of([word], CONFIG)
    assert word in str(error.value)


def test_sinks_for_all_windows_but_full(tmp_path: Path) -> None:
    """Full attention has no use for sinks, and its config would be refused."""
    plan = plan_of("8,full", "tokens", tmp_path, "model.attention_sinks=4")
    assert [plan.config(c).model.attention_sinks for c in plan.choices] == [4, 0]


# ---------------------------------------------------------------------------- equal budgets


def test_equal_arithmetic(tmp_path: Path) -> None:
    """Windows could get equal steps, or the widest the most. The pairs are counted here one by
    one."""
    plan = with_steps(plan_of("8,full,[8,full]", "flops", tmp_path))
    spent = []
    for choice in plan.choices:
        config = plan.config(choice)
        shape = model_config(config, config.tokenizer.vocab_size)
        pairs = sum(bool(visible(i, j, window)) for window in shape.windows
                    for i in range(256) for j in range(i + 1))  # fmt: skip
        counts = shape.parameter_counts()
        matrices = counts["attention"] + counts["feed_forward"] + shape.vocab_size * shape.dim
        flops = 3 * (2 * matrices * 256 + 4 * shape.head_dim * shape.n_heads * pairs)  # type: ignore[operator]
        assert flops == pytest.approx(256 * flops_per_token(shape, 256))
        spent.append(config.train.max_steps * flops)
    assert plan.config(plan.choices[1]).train.max_steps == 100
    assert plan.config(plan.choices[0]).train.max_steps > 100
    assert spent == pytest.approx([spent[1]] * 3, rel=0.01)


def test_equal_time_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call would measure other speeds, and refuse the runs of the first."""
    asked: list[list[str]] = []

    def speeds(shapes: dict[str, object], *_: int) -> dict[str, float]:
        asked.append(list(shapes))
        return {name: {"8": 3000.0, "32": 2000.0, "full": 1000.0}[name] for name in shapes}

    monkeypatch.setattr(speed, "train_speeds", speeds)

    def steps(words: str, *more: str) -> list[int]:
        plan = with_steps(plan_of(words, "time", tmp_path, *more))
        return [plan.config(choice).train.max_steps for choice in plan.choices]

    assert steps("8,full") == [300, 100]
    assert steps("8,full") == [300, 100] and asked == [["full", "8"]]
    assert steps("8,32,full") == [300, 200, 100] and asked[1:] == [["full", "32"]]
    with pytest.raises(UserError, match=r"plan\.json has the steps of another sweep"):
        steps("8,full", "model.dim=64")
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(UserError, match=r"plan\.json"):
        steps("8,full")


# ---------------------------------------------------------------------------- a whole sweep


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    """A sweep of two windows and two seeds, trained in this process by `train.py`."""
    folder = tmp_path_factory.mktemp("trained")
    for window in ("4", "null"):
        for seed in (0, 1):
            run = folder / f"window-{window.replace('null', 'full')}" / f"seed-{seed}"
            more = [*MORE, f"model.sliding_window={window}", f"seed={seed}"]
            assert tiny.start(run, text, *more) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "sweep"))


def words(folder: Path, text: Path, *options: str) -> list[str]:
    """The command line of a sweep over the two windows."""
    settings = [s for s in tiny.SETTINGS if not s.startswith(("seed=", "model.sliding_window="))]
    given = [tiny.QUICKSTART, *settings, f"data.path={text}", *MORE]
    return [*given, "--seeds", "2", "--folder", str(folder), *options]


def scored(run: Path, capsys: pytest.CaptureFixture[str]) -> float:
    """The bits per byte that `scripts.evaluate` prints."""
    capsys.readouterr()
    assert evaluate.main([str(run)]) == 0
    return float(capsys.readouterr().out.split()[-1])


def test_a_sweep_measures_finished_runs_and_trains_the_missing(
    folder: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows in another order, a difference of wrong sign or unpaired, runs trained twice."""
    shutil.rmtree(folder / "window-full" / "seed-1")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    assert len(before) == 3
    copy = folder.parent / "copy.json"
    command = words(folder, text, "--windows", "full", "4", "--json", str(copy))
    assert sweep.main(command) == 0
    printed = capsys.readouterr().out
    assert (
        before.items()
        <= {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}.items()
    )
    about, result = load(folder / "report" / "sweep.json", sweep.SweepResult)
    assert about.command.startswith("python -m experiments.sweep") and not about.quick
    full, narrow = result.rows
    assert (full.word, narrow.word, result.base, result.seeds) == ("full", "4", "full", 2)
    assert (full.reach, narrow.reach) == (None, 7) and full.against is None
    assert full.cache_bytes == tuple(2 * 2 * n * 16 * 4 for n in (1024, 4096, 16384))  # 2 layers
    assert narrow.cache_bytes == (2 * 2 * 4 * 16 * 4,) * 3
    assert full.peak_mb is not None and 50 < full.peak_mb < 5000  # the run of seed 1
    assert narrow.peak_mb is None
    by_run = [
        [scored(folder / row.folder / f"seed-{seed}", capsys) for seed in (0, 1)]
        for row in result.rows
    ]
    for row, values in zip(result.rows, by_run, strict=True):
        assert row.bpb_of_seeds == pytest.approx(values, abs=6e-5)
        assert row.bpb.mean == pytest.approx(sum(values) / 2, abs=6e-5)
        half = 12.706 * abs(row.bpb_of_seeds[0] - row.bpb_of_seeds[1]) / 2
        assert row.bpb.high == pytest.approx(row.bpb.mean + half, rel=1e-4)
    assert narrow.against is not None
    assert narrow.against.mean == pytest.approx(narrow.bpb.mean - full.bpb.mean)
    assert f"| {full.bpb.text()} |" in printed and f"| {narrow.against.text('+.4f')} |" in printed
    logged = [json.loads(line) for path in folder.rglob("metrics.jsonl")
              for line in path.read_text().splitlines()]  # fmt: skip
    seconds = sum(line.get("stepping_s", 0.0) for line in logged)  # one evaluation for each run
    assert result.train_seconds == pytest.approx(seconds)
    assert "experiments.recall" not in printed  # it read no stories
    assert json.loads(copy.read_text())["base"] == "full"
    part = sweep.section(about, result)
    assert len(part.charts) == 5 and all("nan" not in chart.svg() for chart in part.charts)
    assert all(chart.caption for chart in part.charts)


def page_of(result: sweep.SweepResult) -> str:
    """The words of a sweep's page, those of its charts included."""
    about = About("", False, "", 1.0, describe_machine())
    return page("t", [], [sweep.section(about, result)])


def result_of(*words: str, seeds: int = 1, **changes: Any) -> sweep.SweepResult:
    """A result with a row for each word; the first is the base."""
    one = Interval(0.5, None, None, seeds)
    rows = tuple(
        WindowResult(word, word, (8,), 7, 100, one, (0.5,), one if n else None, 1.0, (1.0,), None,
                     (8,), (100,), (one,))
        for n, word in enumerate(words)
    )  # fmt: skip
    result = sweep.SweepResult(
        (), seeds, "tokens", "test", words[0], 256, (64,), (64,), 5, 600.0, rows
    )
    return replace(result, **changes)


def test_the_page_says_what_else_differs() -> None:
    """It said "nothing else" of runs with other steps, schedules or sinks."""
    for words, also in (
        (("full", "8"), "Nothing else differs."),
        (("full", "rising:8"), "Nothing else differs."),
        (("8", "grow:8"), "Only schedules of windows in training differ as well."),
        (("8", "grow:8", "8+4"), "Only schedules of windows in training and sinks differ as"),
    ):
        assert also in page_of(result_of(*words))
    assert "Only sinks differ" in page_of(
        result_of("full", "8", words=("model.attention_sinks=4",))
    )
    result = result_of("full", "8")
    rows = (result.rows[0], replace(result.rows[1], steps=120))
    assert "Only the steps differ as well." in page_of(replace(result, rows=rows))


def test_the_page_of_one_seed() -> None:
    """It named intervals over "1 seeds", which there are not."""
    html = page_of(result_of("full", "8"))
    assert "1 seeds" not in html and "whiskers" not in html.lower() and "bands" not in html
    assert "trained for 10.0 minutes in all" in html
    assert "Whiskers that contain 0: 2 seeds" in page_of(result_of("full", "8", seeds=2))


def test_train_seconds_of_a_run_that_was_continued() -> None:
    """The seconds before a stop could be lost: the clock of each process begins at 0."""
    logged = [{"step": 1.0, "lr": 1.0}, *({"step": 1.0, "stepping_s": s} for s in (2, 5, 3, 9))]
    assert sweep.train_seconds(logged) == 5 + 9 and sweep.train_seconds([]) == 0


def test_the_curve_is_the_mean_of_the_logs(folder: Path, text: Path) -> None:
    """The curve of a seed, or of another window, could be drawn."""
    given = words(folder, text, "--windows", "4")
    plan = sweep._plan(sweep._parser().parse_args(given))
    tokens, curve = sweep._curve(plan, plan.choices[0])
    logged = [
        [line["val_bpb"] for line in read_metrics(folder / "window-4" / seed / "metrics.jsonl")
         if "val_bpb" in line]
        for seed in ("seed-0", "seed-1")
    ]  # fmt: skip
    assert tokens == (2 * 4 * 32,)  # 2 steps of 4 sequences of 32 tokens
    assert [point.mean for point in curve] == pytest.approx([sum(map(sum, logged)) / 2])


def test_quick_is_smaller(tmp_path: Path) -> None:
    """--quick could take as long as the default, or override what the user wrote."""

    def plan(*more: str) -> Plan:
        given = [tiny.QUICKSTART, "--quick", "--folder", str(tmp_path), *more]
        return sweep._plan(sweep._parser().parse_args(given))

    small = plan()
    config = small.config(small.choices[0])
    assert [choice.word for choice in small.choices] == ["8", "32", "full"] and small.seeds == 2
    assert (config.model.dim, config.data.stories, config.train.max_steps) == (96, 1000, 150)
    assert config.train.drill_steps == 15
    own = plan("model.dim=64", "--steps", "20", "--seeds", "1", "--windows", "4,8", "data.far=50")
    config = own.config(own.choices[0])
    assert (config.model.dim, config.train.max_steps, config.data.far) == (64, 20, 50)
    assert len(own.choices) == 2 and own.seeds == 1
    short = plan("--steps", "10")
    train = short.config(short.choices[0]).train
    assert (train.max_steps, train.drill_steps, train.window_steps) == (10, 1, 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--windows", "0"], "--windows 0"),
        (["--windows", "8,wide"], "--windows wide"),
        (["--windows", ","], "--windows is empty"),
        (["--windows", "8", "model.dims=3"], "model.dims is unknown"),
        (["--steps", "0"], "--steps is 0"),
        (["--seeds", "-1"], "--seeds is -1"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--equal", "steps"], "--equal"),
        (["model.dims=3"], "model.dims is unknown"),
        (["seed=3"], "use --seeds"),
        (["model.sliding_window=3"], "use --windows"),
        (["run_dir=x"], "use --folder"),
    ],
)
def test_bad_arguments_are_refused(
    given: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, or a run that starts all the same."""
    assert sweep.main([*given, "--folder", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err and printed.out == "" and not (tmp_path / "runs").exists()


def test_a_folder_with_other_runs_is_refused(
    folder: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs of another config could be mixed with those of this one."""
    files = set(folder.rglob("*"))
    assert sweep.main([*words(folder, text, "--windows", "4"), "train.lr=0.03"]) == 2
    assert "train.lr is 0.02 there, here 0.03" in capsys.readouterr().err
    assert set(folder.rglob("*")) - files <= {folder / ".lock"}


def test_the_base_without_full_is_the_widest(tmp_path: Path) -> None:
    """The others could be compared with the first word."""
    assert plan_of("8,128,32", "tokens", tmp_path).base.word == "128"
    assert plan_of("8,full,32", "tokens", tmp_path).base.word == "full"
    assert replace(plan_of("[8,full],32", "tokens", tmp_path)).base.word == "[8,full]"
