"""The right spelling of a setting, for names of other projects and for common slips."""

import pytest
from yaml_files import QUICKSTART

import train
from configs.load import load_config, split_arguments
from configs.settings import SETTINGS
from configs.spelling import _SETTING_OF, advice
from errors import UserError


def test_the_table_maps_unknown_names_to_settings() -> None:
    """A row that was forgotten when a setting was renamed, or one that hides a setting."""
    leaves = {name.rpartition(".")[2] for name in SETTINGS}
    assert set(_SETTING_OF.values()) <= SETTINGS.keys() and leaves.isdisjoint(_SETTING_OF)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=0.1", "train.lr"),
        ("batch_size=4", "train.micro_batch_size"),
        ("max_iters=9", "train.max_steps"),
        ("train.learning_rate=1", "train.lr"),
        ("model.n_embd=64", "model.dim"),
        ("block_size=8", "data.seq_len"),
        ("trian.lr=1", "train.lr"),
        ("model.n_layer=2", "model.n_layers"),
    ],
)
def test_an_unknown_setting_gets_the_right_name_as_advice(override: str, meant: str) -> None:
    """A newcomer who reads the whole of --help for one name."""
    with pytest.raises(UserError, match=f" is unknown, did you mean {meant}\\?$"):
        load_config(QUICKSTART, [override])


def test_a_setting_that_does_not_exist_here() -> None:
    """A guess at the nearest name, which means something else."""
    with pytest.raises(UserError, match=r"dropout is unknown: there is no dropout"):
        load_config(QUICKSTART, ["model.dropout=0.1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train.lr=0.01"], "--train.lr=0.01 is unknown: write train.lr=0.01; see "),
        (["--train.lr", "0.01"], "--train.lr is unknown: write train.lr=VALUE; see "),
        (["--max_iters=100"], "--max_iters=100 is unknown: write train.max_steps=100; see "),
        (["--max-iters=100"], "--max-iters=100 is unknown: write train.max_steps=100; see "),
        (["--xyzzy"], "--xyzzy is unknown; see "),
        (["train.lr", "=", "0.01"], "write train.lr=0.01, without spaces"),
        (["train.lr", "=0.01"], "write train.lr=0.01, without spaces"),
        (["train.lr=", "0.01"], "write train.lr=0.01, without spaces"),
        (["--resume", "lr", "=", "0.01"], "write train.lr=0.01, without spaces"),
        (["train.lr", "0.01"], "train.lr: no such file; to change a setting write train.lr=VALUE"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_remedy(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`unrecognized arguments`, or a page of usage."""
    assert train.main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_texts_with_equals_signs_are_not_mistakes() -> None:
    """A text that cannot be given on the command line."""
    words = ["sample.prompt=a = b", "sample.prompt=", "seed=1"]
    assert split_arguments(words)[1] == words
    assert advice("--prompt") == "write sample.prompt=VALUE"
