"""Every setting: the values that it accepts, and what --help and editors say about it."""

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from yaml_files import QUICKSTART, ROOT, loaded, nested, refusal

from configs.help import describe, json_schema
from configs.load import config_from_dict, load_config
from configs.setting import Setting
from configs.settings import SECTIONS, SETTINGS, Config, DataSettings, ModelSettings
from errors import UserError
from model.config import ModelConfig


@pytest.mark.parametrize("name", SETTINGS)
def test_a_misspelt_key_is_named_with_the_right_one(name: str, tmp_path: Path) -> None:
    """A setting that is silently ignored because of one letter."""
    line = refusal(tmp_path, yaml.dump(nested(name + "z", 1)))
    assert f"{name}z is unknown, did you mean {name}?" in line


@pytest.mark.parametrize("name", SETTINGS)
def test_a_key_given_twice_is_refused_with_both_lines(name: str, tmp_path: Path) -> None:
    """PyYAML takes the last of two, so the first has no effect."""
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
def test_bounds_are_the_documented_ones(name: str, known: Setting) -> None:
    """An off-by-one between the help, the check and the JSON Schema."""
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
@pytest.mark.parametrize("wrong", ["true", "3.5", "'3'", "012", "1:30", "on", "0x10", "1e-3"])
def test_a_whole_number_is_nothing_else(name: str, wrong: str, tmp_path: Path) -> None:
    """True counted as 1, 012 read as 10, 1:30 as 90: YAML 1.1's surprises."""
    head, _, key = name.rpartition(".")
    text = f"{head}:\n  {key}: {wrong}" if head else f"\n{key}: {wrong}"
    assert refusal(tmp_path, text).startswith(f"line 2: {name} is ")


@pytest.mark.parametrize(
    ("text", "value"), [("2e3", 2000), ("1.0", 1), ("5_0.0", 50), ("2E+1", 20), ("20.", 20)]
)
def test_a_whole_number_may_be_spelled_in_any_way(text: str, value: int, tmp_path: Path) -> None:
    """`train.max_steps=2e3` refused, although it is 2000."""
    for steps in (
        loaded(tmp_path, f"train: {{eval_interval: {text}}}").train.eval_interval,
        load_config(QUICKSTART, [f"train.eval_interval={text}"]).train.eval_interval,
    ):
        assert steps == value and type(steps) is int
    windows = load_config(QUICKSTART, [f"model.sliding_window=[{text}, null]"]).model.sliding_window
    assert windows == (value, None) and json.dumps(windows) == f"[{value}, null]"


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
    if known.is_list_of_choices:
        values = [*((choice,) for choice in known.choices), known.choices, known.choices[::-1]]
    else:
        values = list(known.choices)
    assert [known.accept(value) for value in values] == values


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.is_list_of_choices])
def test_a_list_of_choices_names_each_at_most_once(name: str) -> None:
    """An item that is misspelt, given twice, or not in a list; an empty list. In editors too."""
    known = SETTINGS[name]
    first, second = known.choices[:2]
    rules = known.json_schema()
    jsonschema.validate([second, first], rules)
    for wrong in ([], [first, first], [first, "autoo"], [first, 1], [[first]], first, {first: 1}):
        with pytest.raises(UserError, match=f"{name} is .*, a list without repeats, each one of"):
            known.accept(wrong)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, rules)
    text = f"[{second}, {first}]"
    assert SETTINGS[name].accept(yaml.safe_load(text)) == (second, first)


def test_model_settings_mirror_the_model_config() -> None:
    """A field of the architecture that no YAML can set, or one with two defaults."""
    ours = {f.name: f.default for f in fields(ModelSettings)}
    theirs = {f.name: f.default for f in fields(ModelConfig) if f.name != "vocab_size"}
    assert ours == theirs


@pytest.mark.parametrize("word", ["on", "yes", "off", "no", "y", "1", "TRUE", "auto"])
def test_only_true_and_false_are_true_and_false(word: str, tmp_path: Path) -> None:
    """`no` read as False, or any text as True."""
    line = refusal(tmp_path, f"model:\n  tie_embeddings: {word}")
    assert line.startswith("line 2: model.tie_embeddings is ")
    assert line.endswith("true or false is needed")


@pytest.mark.parametrize("name", ["compile", "native"])
def test_compile_and_native_are_auto_true_or_false(name: str, tmp_path: Path) -> None:
    """The word "true" taken for a mode of its own."""
    for word, value in (("auto", "auto"), ("true", True), ("False", False)):
        assert vars(loaded(tmp_path, f"train: {{{name}: {word}}}").train)[name] == value
    assert "one of auto, true, false" in refusal(tmp_path, f"train: {{{name}: 'true'}}")


def test_a_config_cannot_change() -> None:
    """A setting changed in mid-run, so that the saved config is not the one that ran."""
    config = Config()
    for section in (config, *(getattr(config, name) for name in SECTIONS)):
        assert is_dataclass(section)
        with pytest.raises(FrozenInstanceError):
            setattr(section, fields(section)[0].name, 1)
    hash(load_config(QUICKSTART, ["model.sliding_window=[64, null]"]))


def test_near_and_far() -> None:
    """The default distances of settings and stories are equal, and near is at most far."""
    from data.stories.telling import FAR, NEAR

    default = DataSettings()
    assert (default.near, default.far) == (NEAR, FAR)
    with pytest.raises(UserError, match=r"data\.near is 9, more than data\.far, 8"):
        load_config(QUICKSTART, ["data.near=9", "data.far=8"])


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
