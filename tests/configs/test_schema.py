"""What may stand in a config, and what is said about the rest."""

import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from configs import strict_yaml
from configs.help import describe, json_schema
from configs.load import config_from_dict, load_config, split_arguments, to_yaml
from configs.rules import ignored
from configs.setting import Setting
from configs.settings import SECTIONS, SETTINGS, Config, ModelSettings, model_config
from errors import UserError
from model.config import ModelConfig

ROOT = Path(__file__).parents[2]
YAMLS = sorted((ROOT / "configs").glob("*.yaml"))
QUICKSTART = ROOT / "configs/quickstart.yaml"


def refusal(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    """Write `text` as x.yaml, load it, and return the one line of refusal without the path."""
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line.removeprefix(f"{path}: ")


def loaded(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


def nested(name: str, value: Any) -> dict[str, Any]:
    head, _, key = name.rpartition(".")
    return {head: {key: value}} if head else {key: value}


# The files that come with Breeze


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_file_loads_and_its_run_has_its_name(path: Path) -> None:
    """A file with a mistake, or two runs in one folder."""
    config = load_config(path)
    assert config.run_dir == f"runs/{path.stem}"
    assert ignored(config) == []


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_file_is_valid_for_editors(path: Path) -> None:
    """An editor that underlines what training accepts."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(strict_yaml.parse(text).value, json_schema())


def test_quickstart_full_differs_in_the_window_alone() -> None:
    """A comparison of two runs that differ in more than what is compared."""
    ours = QUICKSTART.read_text(encoding="utf-8").splitlines()
    full = (ROOT / "configs/quickstart-full.yaml").read_text(encoding="utf-8").splitlines()
    different = [(a, b) for a, b in zip(ours, full, strict=True) if a != b]
    assert len(different) == 1 and "sliding_window: null" in different[0][1]


def test_quickstart_is_the_default_file() -> None:
    """A command without a config that starts another run than the README says."""
    assert split_arguments([]) == ("configs/quickstart.yaml", [])
    assert split_arguments(["seed=1"]) == ("configs/quickstart.yaml", ["seed=1"])
    assert split_arguments(["a=b.yaml", "seed=1"]) == ("a=b.yaml", ["seed=1"])


def test_mistral_7b_is_as_published() -> None:
    """Numbers of arXiv 2310.06825, table 1, mistyped."""
    config = load_config(ROOT / "configs/mistral-7b.yaml")
    shape = model_config(config, config.tokenizer.vocab_size)
    published = (4096, 32, 128, 14336, 32, 8, 4096, 32000)
    assert published == (
        shape.dim, shape.n_layers, shape.head_dim, shape.hidden_dim, shape.n_heads,
        shape.n_kv_heads, shape.sliding_window, shape.vocab_size,
    )  # fmt: skip


# Every setting


@pytest.mark.parametrize("name", SETTINGS)
def test_a_misspelt_key_is_named_with_the_right_one(name: str, tmp_path: Path) -> None:
    """A setting that is silently ignored because of one letter."""
    line = refusal(tmp_path, yaml.dump(nested(name + "z", 1)))
    assert f"{name}z is unknown, did you mean {name}?" in line


@pytest.mark.parametrize("name", SETTINGS)
def test_a_key_given_twice_is_refused_with_both_lines(name: str, tmp_path: Path) -> None:
    """PyYAML takes the last of two, so the first line is a lie."""
    head, _, key = name.rpartition(".")
    indent = "  " if head else ""
    text = f"{head}:\n" if head else "\n"
    text += f"{indent}{key}: null\n" * 2
    line = refusal(tmp_path, text)
    assert f"line 3: {name} is given twice (also on line 2)" in line


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("wrong", [{"a": 1}, [[1]], ["x"], b"x", {1, 2}], ids=repr)
def test_no_setting_takes_a_value_of_another_type(name: str, wrong: Any) -> None:
    """A wrong type that surfaces as a traceback far away."""
    with pytest.raises(UserError, match=f"^config: {name} is .* is needed"):
        config_from_dict(nested(name, wrong))


@pytest.mark.parametrize(
    ("name", "known"), SETTINGS.items(), ids=lambda x: x if isinstance(x, str) else ""
)
def test_bounds_are_where_they_are_said_to_be(name: str, known: Setting) -> None:
    """An off-by-one between what is said, what is checked and what editors check."""
    for bound, limit in known.bounds.items():
        list_only = known.hint == tuple[int | None, ...] | None
        step = 1 if known.hint in (int, int | None) or list_only else 1e-9
        outward = step if "aximum" in bound else -step
        beyond: Any = limit if bound.startswith("exclusive") else limit + outward
        within: Any = beyond - outward
        if list_only:
            beyond, within = (beyond,), (within,)
        if name == "data.mix":
            beyond, within = {"stories": beyond}, {"stories": within}
        with pytest.raises(UserError, match=f"{name} is "):
            known.accept(beyond)
        assert known.accept(within) == within
        rules = known.json_schema()
        within, beyond = json.loads(json.dumps([within, beyond]))  # JSON knows no tuples
        jsonschema.validate(within, rules)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(beyond, rules)


@pytest.mark.parametrize(
    "name",
    [n for n, s in SETTINGS.items() if int in (s.hint, *getattr(s.hint, "__args__", ()))],
)
@pytest.mark.parametrize("wrong", ["true", "3.0", "'3'", "012", "1:30", "on", "0x10", "1e3"])
def test_a_whole_number_is_nothing_else(name: str, wrong: str, tmp_path: Path) -> None:
    """True counted as 1, 012 read as 10, 1:30 as 90: YAML 1.1's surprises."""
    head, _, key = name.rpartition(".")
    text = f"{head}:\n  {key}: {wrong}" if head else f"\n{key}: {wrong}"
    assert refusal(tmp_path, text).startswith(f"line 2: {name} is ")


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.hint is float])
@pytest.mark.parametrize("wrong", ["true", ".inf", ".nan", "1e999", "-1", "'1'", "1_e", "", "[1]"])
def test_a_number_is_a_finite_number(name: str, wrong: str, tmp_path: Path) -> None:
    """A learning rate of infinity, or of True."""
    head, _, key = name.rpartition(".")
    assert f"{name} is " in refusal(tmp_path, f"{head}:\n  {key}: {wrong}")


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.choices])
def test_a_choice_is_one_of_those_named(name: str) -> None:
    """A typo in a choice that falls through to some branch."""
    known = SETTINGS[name]
    for wrong in ("", "autoo", 1, 0, None, "True"):
        with pytest.raises(UserError, match="one of"):
            known.accept(wrong)
    assert [known.accept(choice) for choice in known.choices] == list(known.choices)


def test_model_settings_mirror_the_model_config() -> None:
    """A field of the architecture that no YAML can set, or one with two defaults."""
    ours = {f.name: f.default for f in fields(ModelSettings)}
    theirs = {f.name: f.default for f in fields(ModelConfig) if f.name != "vocab_size"}
    assert ours == theirs


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.dim=0", "model.dim is 0"),
        ("model.n_kv_heads=3", "model.n_heads (4) is not divisible by model.n_kv_heads (3)"),
        ("model.head_dim=7", "model.head_dim is 7"),
        ("model.sliding_window=0", "model.sliding_window is 0"),
        ("model.sliding_window=[64, -1]", "model.sliding_window is -1"),
        ("model.sliding_window=[]", "model.sliding_window lists 0 windows"),
        ("model.attention_sinks=-1", "model.attention_sinks is -1"),
        ("model.rope_theta=1", "model.rope_theta is 1.0"),
        ("model.norm_eps=0.0", "model.norm_eps is 0.0"),
        ("model.n_layers=10_001", "model.n_layers is 10001"),
        ("data.test_fraction=0.95", "nothing is left to train on"),
        ("train.warmup_steps=800", "must end before train.max_steps (800)"),
        ("train.max_steps=20", "must end before train.max_steps (20)"),
        ("run_dir=", 'run_dir is ""'),
        ("data.path=a\0b", "data.path is "),
        ("train.keep_checkpoints=1", "a whole number >= 2 is needed"),
    ],
)
def test_conflicts_and_shapes_are_told_in_one_line(override: str, message: str) -> None:
    """A shape that fails in the middle of building the model, without saying why."""
    with pytest.raises(UserError) as caught:
        load_config(QUICKSTART, [override])
    assert message in str(caught.value)
    assert "mistakes:" not in str(caught.value)  # it is one, and is told once


def test_wsd_counts_its_decay() -> None:
    """A warm-up that runs into the decay, so that the peak is never held."""
    wsd = ["train.schedule=wsd", "train.max_steps=100", "train.decay_fraction=0.5"]
    load_config(QUICKSTART, [*wsd, "train.warmup_steps=50"])
    with pytest.raises(UserError, match="51 plus 50 steps of decay"):
        load_config(QUICKSTART, [*wsd, "train.warmup_steps=51"])


# YAML


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


@pytest.mark.parametrize("word", ["on", "yes", "off", "no", "y", "1", "TRUE", "auto"])
def test_only_true_and_false_are_true_and_false(word: str, tmp_path: Path) -> None:
    """`no` read as False, or any text as True."""
    line = refusal(tmp_path, f"model:\n  tie_embeddings: {word}")
    assert line.startswith("line 2: model.tie_embeddings is ")
    assert line.endswith("true or false is needed")


def test_compile_is_auto_true_or_false(tmp_path: Path) -> None:
    """The word "true" taken for a mode of its own."""
    for word, value in (("auto", "auto"), ("true", True), ("False", False)):
        assert loaded(tmp_path, f"train: {{compile: {word}}}").train.compile == value
    assert "one of auto, true, false" in refusal(tmp_path, "train: {compile: 'true'}")


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
        ("train: 5", "line 1: train is 5, but a section"),
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
def test_what_is_no_config_is_refused_in_a_line(
    text: str | bytes, message: str, tmp_path: Path
) -> None:
    """A traceback, a silent surprise, or code that runs, out of a file."""
    line = refusal(tmp_path, text)
    assert message in line and len(line) < 400


@pytest.mark.parametrize("text", ["", "# x", "train:\n", "---\n", "train: {}\n...\n", "\ufeff"])
def test_empty_means_the_defaults(text: str, tmp_path: Path) -> None:
    """A section whose lines are all commented out, taken for a mistake."""
    assert loaded(tmp_path, text) == replace(Config(), run_dir="runs/x")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Mending one mistake a run."""
    text = "train:\n  max_step: 5\n  lr: fast\nmodel:\n  n_heads: four\n  n_kv_heads: 3\nsede: 1\n"
    assert refusal(tmp_path, text, "data.seq_len=0", "data.val_fraction=1e-9", "oops") == (
        '6 mistakes: command line: "oops" is no override, write section.key=value; '
        "line 2: train.max_step is unknown, did you mean train.max_steps?; "
        'line 3: train.lr is "fast", a number > 0 is needed; '
        'line 5: model.n_heads is "four", a whole number is needed; '
        "line 7: sede is unknown, did you mean seed?; "
        "command line: data.seq_len is 0, a whole number >= 1 is needed"
    )


def test_a_mistake_in_the_shape_does_not_hide_another(tmp_path: Path) -> None:
    """A conflict that is only told once the rest is mended."""
    line = refusal(tmp_path, "model:\n  dim: 256\n  n_heads: 3\ntrain:\n  lr: 0\n")
    assert line.startswith("2 mistakes: line 5: train.lr") and "line 3: model.n_heads (3)" in line


def test_hundreds_of_mistakes_are_counted_not_listed(tmp_path: Path) -> None:
    """A line of a megabyte, and minutes spent on guessing what was meant."""
    line = refusal(tmp_path, "".join(f"k{n}: 1\n" for n in range(5000)))
    assert line.startswith("5000 mistakes: ") and line.endswith("; and 4990 more")


# Files that are none


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A typo in the file's name."""
    with pytest.raises(UserError, match=r"no such file, did you mean .*quickstart\.yaml\?"):
        load_config(ROOT / "configs/quikstart.yaml")
    with pytest.raises(UserError, match=r"no such file$"):
        load_config(tmp_path / "none" / "x.yaml")
    with pytest.raises(UserError, match=r"cannot be read|no such file"):
        load_config("x" * 5000)


def test_folders_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    """A wait for ever on a pipe, or reading a device to its end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="not a regular file"):
            load_config(path)


# Overrides


def test_overrides_replace_what_the_file_says(tmp_path: Path) -> None:
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


# Doors


def test_a_config_cannot_change() -> None:
    """A setting changed in mid-run, so that the saved config is not the one that ran."""
    config = Config()
    for section in (config, *(getattr(config, name) for name in SECTIONS)):
        assert is_dataclass(section)
        with pytest.raises(FrozenInstanceError):
            setattr(section, fields(section)[0].name, 1)
    hash(load_config(QUICKSTART, ["model.sliding_window=[64, null]"]))


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


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_resolved_file_is_the_same_run(path: Path, tmp_path: Path) -> None:
    """A resolved config that trains something else than its file."""
    config = load_config(path)
    assert loaded(tmp_path, to_yaml(config)) == config
    jsonschema.validate(config.to_dict(), json_schema())


def test_a_dict_is_checked_as_strictly_as_a_file() -> None:
    """A checkpoint's config that is trusted because a program wrote it."""
    with pytest.raises(UserError) as caught:
        config_from_dict({"seed": True, "train": {"lrr": 1}, "model": {"n_kv_heads": 3}}, "ck")
    assert str(caught.value) == (
        "ck: 3 mistakes: seed is true, a whole number >= 0 is needed; "
        "train.lrr is unknown, did you mean train.lr?; model.n_heads (4) is not divisible by "
        "model.n_kv_heads (3): each key/value head serves the same number of query heads"
    )
    for wrong in (float("nan"), float("inf"), 10**400):
        with pytest.raises(UserError, match=r"train\.lr is"):
            config_from_dict({"train": {"lr": wrong}})


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["data.path=x"], "data.path"),
        (["train.optimizer=adamw", "train.adamw_lr=1"], "train.adamw_lr"),
        (["train.decay_fraction=0.5"], "train.decay_fraction"),
        (["sample.temperature=0", "sample.top_p=0.5"], "sample.top_p"),
    ],
)
def test_what_does_nothing_is_said_aloud(overrides: list[str], named: str) -> None:
    """A knob that is turned for nothing."""
    notes = ignored(load_config(QUICKSTART, overrides))
    assert len(notes) == 1 and notes[0].startswith(f"{named} has no effect: ")


def test_help_lists_every_setting_on_lines_that_fit() -> None:
    """A setting that nobody can find."""
    text = describe()
    for known in SETTINGS.values():
        assert f"  {known.name.rpartition('.')[2]} " in text and known.meaning in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_editors_schema_is_current_and_strict() -> None:
    """`make schema` forgotten after a setting was changed; an unknown key that passes."""
    saved = json.loads((ROOT / "configs/schema.json").read_text(encoding="utf-8"))
    assert saved == json_schema()
    jsonschema.Draft202012Validator.check_schema(saved)
    for wrong in ({"train": {"max_step": 1}}, {"sede": 1}, {"seed": "1"}, {"model": {"dim": 0.5}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, saved)
    for right in ({}, {"train": None}, {"model": {"sliding_window": [64, None]}}):
        jsonschema.validate(right, saved)


def test_reading_a_config_does_not_import_torch() -> None:
    """Seconds of waiting for a message about a typo."""
    code = (
        "import sys, configs.load, model.cost, scripts.plan\n"
        "configs.load.load_config('configs/quickstart.yaml')\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_mix_names_sources(tmp_path: Path) -> None:
    """From a file and from the command line, and back; a name that is no source is refused."""
    path = tmp_path / "mix.yaml"
    path.write_text("data:\n  mix: {stories: 3, 'files:notes/': 1.5}\n")
    config = load_config(path)
    assert config.data.mix == {"stories": 3.0, "files:notes/": 1.5}
    assert config_from_dict(config.to_dict()) == config
    path.write_text(to_yaml(config))
    assert load_config(path) == config
    given = load_config(QUICKSTART, ['data.mix={stories: 1, "hub:a/b": 2}']).data.mix
    assert given == {"stories": 1.0, "hub:a/b": 2.0}
    for wrong in ("novel", "files", "files:", "stories:x"):
        with pytest.raises(UserError, match="stories, shakespeare, files:PATH or hub:ID is needed"):
            load_config(QUICKSTART, [f'data.mix={{"{wrong}": 1}}'])
    assert any("data.mix says what is read" in line for line in ignored(
        load_config(QUICKSTART, ["data.source=shakespeare", "data.mix={stories: 1}"])
    ))  # fmt: skip


def test_near_and_far() -> None:
    """The distances that stories have by default are those that are said; and they are in order."""
    from data.stories.telling import FAR, NEAR

    default = load_config(QUICKSTART).data
    assert (default.near, default.far) == (NEAR, FAR)
    with pytest.raises(UserError, match=r"data\.near is 9, more than data\.far, 8"):
        load_config(QUICKSTART, ["data.near=9", "data.far=8"])
