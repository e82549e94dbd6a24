"""train.init_from in a config: the model's settings are those of the trained model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yaml_files import QUICKSTART

from configs.load import load_config, to_yaml
from configs.settings import Config, ModelSettings
from errors import UserError

BECAUSE = "because train.init_from names a trained model\n"
START = "train.init_from=runs/a"
SMALL = vars(
    ModelSettings(dim=64, n_heads=4, head_dim=16, hidden_dim=192, sliding_window=(8, None))
)


def load(
    tmp_path: Path, text: str, *overrides: str, model: Mapping[str, Any] = SMALL
) -> tuple[Config, Path]:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_config(path, overrides, lambda config: {"vocab_size": 2048, **model}), path


def test_settings_that_the_user_did_not_ask_for_are_the_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config of few settings could not start from a model with other sizes."""
    config, _ = load(tmp_path, "model: {sliding_window: 32, attention: dense}\n", START)
    assert config.model == replace(
        ModelSettings(**SMALL), head_dim=None, hidden_dim=None, sliding_window=32, attention="dense"
    )  # head_dim and hidden_dim of the model are what null means
    assert capsys.readouterr().err == f"note: model.dim is 64 instead of 256, {BECAUSE}"
    config, _ = load(tmp_path, "seed: 1\n", START, model=SMALL | {"head_dim": 24})
    assert config.model.head_dim == 24 and config.model.sliding_window == (8, None)
    assert "model.sliding_window is [8, null] instead of 64" in capsys.readouterr().err


def test_a_shipped_config_is_not_what_the_user_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Starting from a trained model with quickstart.yaml would need its shape on the command
    line."""
    model = SMALL | {"vocab_size": 300}
    config = load_config(QUICKSTART, [START, "model.sliding_window=16"], lambda config: model)
    assert (config.model.dim, config.model.sliding_window) == (64, 16)
    assert config.tokenizer.vocab_size == 300
    err = capsys.readouterr().err
    assert "model.dim is 64 instead of 192" in err
    assert "tokenizer.vocab_size is 300 instead of 4096, because" in err


def test_equal_settings_give_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notes about nothing hide the others: windows as a list, sizes that null already means."""
    model = SMALL | {"sliding_window": (32, 32, 32, 32), "dim": 256, "head_dim": 64,
                     "hidden_dim": 704}  # fmt: skip
    config, _ = load(tmp_path, "model: {sliding_window: 32}\n", START, model=model)
    assert config.model == ModelSettings(sliding_window=32)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("model.dim=128", "model.dim is 128, but that of the trained model is 64"),
        ("model.head_dim=8", "model.head_dim is 8, but that of the trained model is 16"),
        ("model.sink_logits=true", "model.sink_logits is true, but that of the trained model is"),
        ("model.tie_embeddings=true", "model.tie_embeddings is true, but"),
    ],
)
def test_what_does_not_fit_the_weights_is_an_error(
    asked: str, message: str, tmp_path: Path
) -> None:
    """Torch's error about sizes, after the text was tokenized."""
    with pytest.raises(UserError) as caught:
        load(tmp_path, "seed: 1\n", START, asked)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}: command line: {message}")


@pytest.mark.parametrize("asked", ["model.sliding_window=null", "model.head_dim=null",
                                   "model.rope_theta=50", "model.hidden_dim=192"])  # fmt: skip
def test_what_fits_the_weights_is_the_users(asked: str, tmp_path: Path) -> None:
    """Windows and the base of RoPE can be changed in fine-tuning; null and the number that it
    means do not contradict."""
    config, _ = load(tmp_path, "seed: 1\n", START, asked)
    if "sliding" in asked:
        assert config.model.sliding_window is None
    if "theta" in asked:
        assert config.model.rope_theta == 50


def test_a_saved_config_stays_as_it_is(tmp_path: Path) -> None:
    """A run could not be resumed, or repeated, after the trained model changed or was removed."""

    def gone(config: Config) -> Mapping[str, Any]:
        raise UserError("there is no run runs/a")

    config, path = load(tmp_path, "seed: 1\n", START)
    path.write_text(to_yaml(config))
    assert load_config(path, [], gone) == config
    with pytest.raises(UserError, match="there is no run runs/a"):
        load_config(path, [START], gone)
    with pytest.raises(UserError, match=r"model\.dimm"):  # errors of the config come first
        load_config(path, [START, "model.dimm=3"], gone)
