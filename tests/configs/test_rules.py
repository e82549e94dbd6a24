"""Rules between settings: conflicts, settings without effect, settings that follow from others."""

from pathlib import Path

import pytest
from yaml_files import QUICKSTART, ROOT, loaded, refusal

from configs.load import config_from_dict, load_config, to_yaml
from errors import UserError


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
        ("train.warmup_steps=1500", "must end before train.max_steps (1500)"),
        ("run_dir=", 'run_dir is ""'),
        ("data.path=a\0b", "data.path is "),
        ("train.keep_checkpoints=1", "a whole number >= 2 is needed"),
    ],
)
def test_conflicts_and_shapes_are_one_line(override: str, message: str) -> None:
    """A shape that fails in the middle of building the model, without saying why."""
    with pytest.raises(UserError) as caught:
        load_config(QUICKSTART, [override])
    assert message in str(caught.value)
    assert "errors:" not in str(caught.value)  # one error, reported once


def test_the_text_is_not_its_own_prompt() -> None:
    """Every text would be read twice, and learned only after it was seen."""
    files = ["data.source=files", "data.path=a.jsonl", "data.field=q", "data.prompt_field=q"]
    with pytest.raises(UserError) as caught:
        load_config(QUICKSTART, files)
    line = str(caught.value)
    assert "data.prompt_field and data.field are both q: name the columns" in line
    assert "errors:" not in line


def test_wsd_counts_its_decay() -> None:
    """A warm-up that runs into the decay, so that the peak is never held."""
    wsd = ["train.schedule=wsd", "train.max_steps=100", "train.decay_fraction=0.5"]
    load_config(QUICKSTART, [*wsd, "train.warmup_steps=50"])
    with pytest.raises(UserError, match="51 plus 50 steps of decay"):
        load_config(QUICKSTART, [*wsd, "train.warmup_steps=51"])


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
    with pytest.raises(UserError, match=r"data\.source has no effect: data\.mix names the sources"):
        load_config(QUICKSTART, ["data.source=shakespeare", "data.mix={stories: 1}"])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["data.path=x"], "data.path"),
        (["data.prompt_field=question"], "data.prompt_field"),
        (["train.optimizer=adamw", "train.adamw_lr=1"], "train.adamw_lr"),
        (["train.optimizer=adamw", "train.momentum=0.5"], "train.momentum"),
        (["train.decay_fraction=0.5"], "train.decay_fraction"),
        (["sample.temperature=0", "sample.top_p=0.5"], "sample.top_p"),
    ],
)
def test_an_override_without_effect_is_refused(overrides: list[str], named: str) -> None:
    """Hours of training without the setting that the user asked for, after one note."""
    with pytest.raises(UserError) as caught:
        load_config(QUICKSTART, overrides)
    line = str(caught.value)
    assert f"command line: {named} has no effect: " in line and "errors:" not in line


def test_a_default_value_may_be_written_anywhere() -> None:
    """A setting that keeps its default could be an error, although nothing changes."""
    config = load_config(QUICKSTART, ["data.documents=file", "train.window_choices=null"])
    assert config == load_config(QUICKSTART)


def test_a_setting_without_effect_in_a_file_of_the_user(tmp_path: Path) -> None:
    """`decay_fraction` without the schedule that reads it; a file made useless by an override."""
    text = "train:\n  schedule: linear\n  decay_fraction: 0.5\n"
    line = refusal(tmp_path, text)
    assert line.startswith("line 3: train.decay_fraction has no effect: train.schedule is linear")
    assert loaded(tmp_path, text, "train.schedule=wsd").train.decay_fraction == 0.5
    wsd = text.replace("linear", "wsd")
    assert loaded(tmp_path, wsd, "train.schedule=cosine").train.decay_fraction == 0.5


def test_shipped_and_saved_configs_are_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes about settings that the user never wrote; a run that cannot be resumed."""
    config = load_config(QUICKSTART, ["data.source=shakespeare"])
    assert config.data.stories == 8000  # of quickstart.yaml, without effect here
    assert capsys.readouterr().err == ""
    assert loaded(tmp_path, to_yaml(config)) == config
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "path", ["my.txt", "notes/", "./notes", "~/notes", "*.md", "C:\\x", "THERE"]
)
def test_a_path_decides_the_source(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data.path=my.txt`, and training on stories for minutes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "THERE").mkdir()
    assert load_config(QUICKSTART, [f"data.path={path}"]).data.source == "files"
    note = "note: data.source is files instead of stories, because data.path names files\n"
    assert capsys.readouterr().err == note
    written = loaded(tmp_path, f"data:\n  path: '{path}'\n")
    assert written.data.source == "files" and capsys.readouterr().err == note
    saved = to_yaml(load_config(QUICKSTART))  # every setting is written there: data.mix is null
    assert loaded(tmp_path, saved, f"data.path={path}").data.source == "files"


def test_a_path_does_not_decide_a_source_that_was_given(tmp_path: Path) -> None:
    """Another text than the one that was asked for."""
    hub = ROOT / "configs/tinystories.yaml"
    assert load_config(hub, ["data.path=owner/name"]).data.source == "hub"
    assert load_config(hub, [f"data.path={tmp_path}"]).data.source == "files"
    assert load_config(ROOT / "configs/char.yaml", ["data.path=x.txt"]).data.source == "files"
    assert load_config(QUICKSTART, ["data.path=a.txt", "data.source=hub"]).data.source == "hub"
    for given in (["data.source=stories"], ["data.mix={stories: 1}"]):
        with pytest.raises(UserError, match=r"data\.path has no effect"):
            load_config(QUICKSTART, ["data.path=my.txt", *given])
    with pytest.raises(UserError, match=r"data\.path has no effect: data\.source is stories"):
        load_config(QUICKSTART, ["data.path=owner/name"])


def test_a_warmup_that_does_not_fit_is_shortened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train.max_steps=20`, refused because of a setting that the user never wrote."""
    config = load_config(QUICKSTART, ["train.max_steps=20"])
    assert config.train.warmup_steps == 2
    assert capsys.readouterr().err == (
        "note: train.warmup_steps is 2 instead of 20, because train.max_steps is 20\n"
        "note: train.drill_steps is 2 instead of 100, because train.max_steps is 20\n"
        "note: train.window_steps is 2 instead of 150, because train.max_steps is 20\n"
    )
    assert loaded(tmp_path, to_yaml(config)) == config and capsys.readouterr().err == ""
    assert loaded(tmp_path, to_yaml(config), "train.max_steps=1").train.warmup_steps == 0
    assert load_config(QUICKSTART, ["train.max_steps=21"]).train.warmup_steps == 20
    with pytest.raises(UserError, match=r"train\.warmup_steps is 20: it must end before"):
        load_config(QUICKSTART, ["train.max_steps=20", "train.warmup_steps=20"])
    with pytest.raises(UserError, match=r"line 2: train\.warmup_steps is 30: it must end before"):
        loaded(tmp_path, "train:\n  warmup_steps: 30\n", "train.max_steps=20")
    wsd = ["train.schedule=wsd", "train.decay_fraction=1", "train.max_steps=10"]
    assert load_config(QUICKSTART, wsd).train.warmup_steps == 0


def test_a_trained_model_begins_without_drills_and_with_wide_windows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that can copy would start again with 2 keys and random tokens. A run that was
    started so with intent could not be resumed."""
    fresh = load_config(QUICKSTART, ["train.init_from=null"])
    assert fresh.train.drill_steps == 100 and capsys.readouterr().err == ""
    train = load_config(QUICKSTART, ["train.init_from=runs/a"]).train
    assert (train.drill_steps, train.window_schedule, train.drill_share) == (0, "constant", 0.1)
    because = "because train.init_from names a trained model"
    assert capsys.readouterr().err == (
        f"note: train.drill_steps is 0 instead of 100, {because}\n"
        f"note: train.window_schedule is constant instead of grow, {because}\n"
    )
    asked = ["train.init_from=runs/a", "train.drill_steps=9", "train.window_schedule=grow"]
    config = load_config(QUICKSTART, asked)
    assert config.train.drill_steps == 9 and capsys.readouterr().err == ""
    grown = load_config(QUICKSTART, ["train.init_from=runs/a", "train.window_steps=50"])
    assert (grown.train.window_schedule, grown.train.window_steps) == ("grow", 50)
    assert "window_schedule" not in capsys.readouterr().err
    assert loaded(tmp_path, to_yaml(config)) == config and capsys.readouterr().err == ""


def test_drills_that_do_not_fit_are_shortened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of drills only, which never sees the text, or one refused for the file's setting."""
    saved = to_yaml(load_config(QUICKSTART))
    assert loaded(tmp_path, saved, "train.max_steps=250").train.drill_steps == 100
    assert capsys.readouterr().err == ""
    assert loaded(tmp_path, saved, "train.max_steps=100").train.drill_steps == 10
    assert capsys.readouterr().err == (
        "note: train.drill_steps is 10 instead of 100, because train.max_steps is 100\n"
        "note: train.window_steps is 10 instead of 150, because train.max_steps is 100\n"
    )
    for steps in range(1, 300):  # any number of steps that a user asks for
        fitted = load_config(QUICKSTART, [f"train.max_steps={steps}"]).train
        assert 1 <= fitted.window_steps <= steps - fitted.drill_steps
    capsys.readouterr()
    assert loaded(tmp_path, saved, "train.max_steps=1").train.drill_steps == 0
    with pytest.raises(UserError, match=r"window_steps is 9 plus 2 steps of drills: windows must"):
        load_config(
            QUICKSTART, ["train.window_steps=9", "train.drill_steps=2", "train.max_steps=10"]
        )
    with pytest.raises(
        UserError, match=r"train\.drill_steps is 9: it must be less than train\.max_steps \(9\)"
    ):
        load_config(QUICKSTART, ["train.drill_steps=9", "train.max_steps=9"])
    for wrong in ("train.drill_share=1", "train.drill_share=-0.1", "train.drill_steps=-1"):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            load_config(QUICKSTART, [wrong])


def test_adapters_need_a_trained_model_and_adamw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters of random weights; orthogonal updates of adapters; a config that the run saved and
    that does not load."""
    lora = ["train.init_from=runs/a", "train.lora_rank=4", "train.lora_targets=[wv, wq]"]
    config = load_config(QUICKSTART, lora)
    assert (config.train.optimizer, config.train.lora_targets) == ("adamw", ("wv", "wq"))
    note = "train.optimizer is adamw instead of muon, because train.lora_rank trains adapters"
    assert note in capsys.readouterr().err
    (tmp_path / "saved.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert load_config(tmp_path / "saved.yaml") == config == config_from_dict(config.to_dict())
    wrong = {
        "train.lora_rank needs a trained model": ["train.lora_rank=4"],
        "train.lora_rank trains adapters with AdamW": [*lora, "train.optimizer=muon"],
        "train.lora_alpha has no effect: train.lora_rank is 0": ["train.lora_alpha=8"],
        "train.lora_targets has no effect: train.lora_rank is 0": ["train.lora_targets=[wq]"],
        "train.momentum has no effect": [*lora, "train.momentum=0.5"],
    }
    for message, overrides in wrong.items():
        with pytest.raises(UserError) as caught:
            load_config(QUICKSTART, overrides)
        assert message in str(caught.value) and "errors:" not in str(caught.value)
