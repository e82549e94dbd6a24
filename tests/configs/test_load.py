"""From a file and the command line to a config: what is read, and what is refused in one line."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from yaml_files import QUICKSTART, ROOT, loaded, refusal

from configs.load import config_from_dict, load_config, split_arguments, to_yaml
from configs.settings import Config
from errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("3E+2", 300.0), (".5", 0.5), ("1.", 1.0), ("1_000", 1000.0), ("2", 2.0),
     ("1.5e-3", 1.5e-3), ("+1.0", 1.0), ("1_0.5", 10.5)],
)  # fmt: skip
def test_numbers_are_read_as_they_look(text: str, value: float, tmp_path: Path) -> None:
    """PyYAML reads 3e-4 as text."""
    rate = loaded(tmp_path, f"train:\n  lr: {text}").train.lr
    assert rate == value and type(rate) is float
    assert load_config(QUICKSTART, [f"train.lr={text}"]).train.lr == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1\nb: *x", "line 1: anchors"),
        ("seed: *x", "line 1: anchors"),
        ("train: &t\n  lr: 1", "line 1: anchors"),
        ("train:\n  <<: {lr: 1}", "line 2: train.<< is unknown"),
        ("seed: !!int 3", "line 1: the tag"),
        ("\nseed: !!python/object/apply:os.system ['true']", "line 2: the tag"),
        ("seed: [", "not YAML"),
        ("seed: 1\n  lr: 2", "line 2: not YAML"),
        ("train:\n\tlr: 1", "line 2: not YAML"),
        ("seed: 1\n---\nseed: 2", "line 2: not YAML"),
        ('seed: "\\UFFFFFFFF"', "not YAML"),
        ("%YAML " + "9" * 5000 + "\n---\n", "not YAML"),
        ("\x00", "not YAML"),
        ("seed: 1 \x07", "not YAML"),
        ("[" * 10_000, "line 1: nested deeper"),
        ("{a: " * 1000, "line 1: nested deeper"),
        ("[seed, 1]", "holds"),
        ("seed", "holds"),
        ("3", "holds 3"),
        ("? [a, b]\n: 1", "line 1: a key must be a word"),
        ("train: 5", "line 1: train is 5, but it is a section"),
        ("train: [lr]", "line 1: train is"),
        ("train.lr: 5", '"train.lr" is unknown, did you mean train.lr?'),
        ("lr: 5", "line 1: lr is unknown, did you mean train.lr?"),
        ("trian:\n  lr: 5", "line 1: trian is unknown, did you mean train?"),
        ("model:\n  max_steps: 5", "line 2: model.max_steps is unknown, did you mean train.max_st"),
        ("xyzzyx: 5", "line 1: xyzzyx is unknown"),
        ("1: 5", "line 1: 1 is unknown"),
        ("seed: " + "9" * 5000, "line 1: seed is "),
        ("seed: 1000000000000000000", "(below 1e+18)"),
        ("seed: 007", "(write it without leading zeros)"),
        ("sample:\n  prompt: 12", "(put it in quotes)"),
        ("seed: 2020-01-01", "line 1: seed is"),
        ("\x1b[31m: 1", "not YAML"),
        (b"seed: \xff", "not UTF-8 text (byte 6)"),
        (b"\xff\xfes\0e\0e\0d\0", "not UTF-8 text (byte 0)"),
        ("#" * 70_000, "larger than 65,536 bytes"),
    ],
    ids=lambda x: repr(x)[:30],
)
def test_a_file_that_is_not_a_config_is_one_line(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    """A traceback, a value that is silently changed, or code in a file that is run."""
    line = refusal(tmp_path, text)
    assert message in line and len(line) < 400


@pytest.mark.parametrize("text", ["", "# x", "train:\n", "---\n", "train: {}\n...\n", "\ufeff"])
def test_empty_means_the_defaults(text: str, tmp_path: Path) -> None:
    """A section whose lines are all commented out, taken for a mistake."""
    assert loaded(tmp_path, text) == replace(Config(), run_dir="runs/x")


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    """A command that must be run once per mistake."""
    text = "train:\n  max_step: 5\n  lr: fast\nmodel:\n  n_heads: four\n  n_kv_heads: 3\nsede: 1\n"
    assert refusal(tmp_path, text, "data.seq_len=0", "data.val_fraction=1e-9", "oops") == (
        '6 errors: command line: "oops" is not an override, write section.key=value; '
        "line 2: train.max_step is unknown, did you mean train.max_steps?; "
        'line 3: train.lr is "fast", a number > 0 is needed; '
        'line 5: model.n_heads is "four", a whole number is needed; '
        "line 7: sede is unknown, did you mean seed?; "
        "command line: data.seq_len is 0, a whole number >= 1 is needed"
    )


def test_a_mistake_in_the_shape_does_not_hide_another(tmp_path: Path) -> None:
    """A conflict that is only reported when the other errors are corrected."""
    line = refusal(tmp_path, "model:\n  dim: 256\n  n_heads: 3\ntrain:\n  lr: 0\n")
    assert line.startswith("2 errors: line 5: train.lr") and "line 3: model.n_heads (3)" in line


def test_hundreds_of_mistakes_are_counted_not_listed(tmp_path: Path) -> None:
    """A line of a megabyte, and minutes of searching for similar names."""
    line = refusal(tmp_path, "".join(f"k{n}: 1\n" for n in range(5000)))
    assert line.startswith("5000 errors: ") and line.endswith("; and 4990 more")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A typo in the file's name."""
    with pytest.raises(UserError, match=r"no such file, did you mean .*quickstart\.yaml\?"):
        load_config(ROOT / "configs/quikstart.yaml")
    with pytest.raises(UserError, match=r"no such file$"):
        load_config(tmp_path / "none" / "x.yaml")
    with pytest.raises(UserError, match=r"cannot be read|no such file"):
        load_config("x" * 5000)


def test_folders_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    """A command that waits for ever on a pipe, or reads a device without end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a regular file"):
            load_config(path)


def test_quickstart_is_the_default_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command without a config that starts another run than the README says."""
    monkeypatch.chdir(ROOT)
    assert split_arguments([]) == ("configs/quickstart.yaml", [])
    assert split_arguments(["seed=1"]) == ("configs/quickstart.yaml", ["seed=1"])


def test_the_config_may_stand_anywhere() -> None:
    """A config that is taken for an override, or an override for a config."""
    assert split_arguments(["seed=1", "x.yaml", "run_dir=r"]) == ("x.yaml", ["seed=1", "run_dir=r"])
    assert split_arguments(["a=b.yaml", "seed=1"]) == ("a=b.yaml", ["seed=1"])
    assert split_arguments(["x", "data.path=notes.yaml"]) == ("x", ["data.path=notes.yaml"])
    assert split_arguments(["data.path=notes.yaml"])[1] == ["data.path=notes.yaml"]


def test_shipped_configs_are_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`python ~/breeze/train.py` that works only in one folder; a file here that is not read."""
    monkeypatch.chdir(tmp_path)
    path, overrides = split_arguments([])
    assert load_config(path, overrides) == load_config(QUICKSTART)
    assert load_config("configs/char.yaml") == load_config(ROOT / "configs/char.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/char.yaml").write_text("seed: 7")
    assert load_config("configs/char.yaml").seed == 7


def test_overrides_replace_values_of_the_file(tmp_path: Path) -> None:
    """An override that is lost, or that loses to the file."""
    config = loaded(
        tmp_path, "train:\n  lr: wrong\nseed: 1", "train.lr=1", "train.lr=2e-3", "seed=7",
        "model.sliding_window=[32, null]", "run_dir=elsewhere", "sample.top_k=40",
    )  # fmt: skip
    assert (config.train.lr, config.seed, config.sample.top_k) == (2e-3, 7, 40)
    assert config.model.sliding_window == (32, None)
    assert config.folder == Path("elsewhere")


@pytest.mark.parametrize("text", ["ROMEO:", "", "42", "true", "null", "a=b", "[x]", "'q", "- é 😀"])
def test_text_is_taken_as_it_is(text: str) -> None:
    """`sample.prompt=ROMEO:` read as a mapping."""
    assert load_config(QUICKSTART, [f"sample.prompt={text}"]).sample.prompt == text
    path = load_config(QUICKSTART, ["data.source=files", f"data.path=x{text}"]).data.path
    assert path == f"x{text}"


def test_null_unsets_a_path() -> None:
    """A folder called null."""
    assert load_config(QUICKSTART, ["run_dir=null"]).run_dir == "runs/quickstart"


@pytest.mark.parametrize(
    "override", ["seed", "=1", "seed=", "seed=[", "seed=&a 1", "train=1", "train.=1", ".lr=1", ""]
)
def test_a_malformed_override_is_named(override: str) -> None:
    """A command line that is silently taken for something else."""
    with pytest.raises(UserError, match="command line: "):
        load_config(QUICKSTART, [override])


TEXTS = [
    "", " ", "on", "3e-4", "012", "null", "~", "1:30", "a: b", "# c", "'", '"', "\n\n x\n", "é😀",
    "\u2028\x85\u00a0", "\ud800", "\x00\x1b\x7f", "&a", "*a", "!t", "-", "? ", "=", "<<", "True",
    "1_0", "5\n", "x" * 300 + " y" * 300, "\ufeff", "2020-01-01", "\t", "| x", "%", "@",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_saved_config_loads_back(text: str, tmp_path: Path) -> None:
    """A run that cannot be resumed because of what its prompt looks like."""
    config = load_config(QUICKSTART, ["model.sliding_window=[64, null]", "train.lr=1e-05"])
    config = replace(config, sample=replace(config.sample, prompt=text))
    assert loaded(tmp_path, to_yaml(config)) == config
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_dict_is_checked_as_strictly_as_a_file() -> None:
    """A checkpoint's config that is trusted because a program wrote it."""
    with pytest.raises(UserError) as caught:
        config_from_dict({"seed": True, "train": {"lrr": 1}, "model": {"n_kv_heads": 3}}, "ck")
    assert str(caught.value) == (
        "ck: 3 errors: seed is true, a whole number >= 0 is needed; "
        "train.lrr is unknown, did you mean train.lr?; model.n_heads (4) is not divisible by "
        "model.n_kv_heads (3): each key/value head serves the same number of query heads"
    )
    for wrong in (float("nan"), float("inf"), 10**400):
        with pytest.raises(UserError, match=r"train\.lr is"):
            config_from_dict({"train": {"lr": wrong}})


def test_reading_a_config_does_not_import_torch() -> None:
    """Seconds of waiting for a message about a typo."""
    code = (
        "import sys, configs.load, model.cost, scripts.plan\n"
        "configs.load.load_config('configs/quickstart.yaml')\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_two_escapes_of_one_character(tmp_path: Path) -> None:
    """JSON writes a smiley as a pair of surrogates, which PyYAML reads as two characters."""
    path = tmp_path / "a.yaml"
    path.write_text('{"sample": {"prompt": "\\ud83d\\ude42"}}')
    assert load_config(path).sample.prompt == "\U0001f642"
