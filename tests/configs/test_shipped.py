"""The YAML files that come with Breeze."""

from pathlib import Path

import jsonschema
import pytest
from yaml_files import QUICKSTART, ROOT, YAMLS, loaded

from configs import strict_yaml
from configs.help import json_schema
from configs.load import load_config, to_yaml
from configs.rules import without_effect
from configs.settings import model_config


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_file_loads_and_its_run_has_its_name(path: Path) -> None:
    """A file with a mistake, or two runs in one folder."""
    assert load_config(path).run_dir == f"runs/{path.stem}"
    assert without_effect(load_config(path)) == {}


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_file_is_valid_for_editors(path: Path) -> None:
    """An editor that underlines what training accepts."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(strict_yaml.parse(text).value, json_schema())


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_a_resolved_file_is_the_same_run(path: Path, tmp_path: Path) -> None:
    """A resolved config that trains something else than its file."""
    config = load_config(path)
    assert loaded(tmp_path, to_yaml(config)) == config
    jsonschema.validate(config.to_dict(), json_schema())


def test_quickstart_full_differs_in_the_window_alone() -> None:
    """A comparison of two runs that differ in more than what is compared."""
    ours = QUICKSTART.read_text(encoding="utf-8").splitlines()
    full = (ROOT / "configs/quickstart-full.yaml").read_text(encoding="utf-8").splitlines()
    different = [(a, b) for a, b in zip(ours, full, strict=True) if a != b]
    assert len(different) == 1 and "sliding_window: null" in different[0][1]


def test_mistral_7b_is_as_published() -> None:
    """Numbers of arXiv 2310.06825, table 1, mistyped."""
    config = load_config(ROOT / "configs/mistral-7b.yaml")
    shape = model_config(config, config.tokenizer.vocab_size)
    published = (4096, 32, 128, 14336, 32, 8, 4096, 32000)
    assert published == (
        shape.dim, shape.n_layers, shape.head_dim, shape.hidden_dim, shape.n_heads,
        shape.n_kv_heads, shape.sliding_window, shape.vocab_size,
    )  # fmt: skip
