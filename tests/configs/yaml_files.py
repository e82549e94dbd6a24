"""Files for the tests of configs: the shipped ones, and those that a test writes."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.settings import Config
from errors import UserError

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
