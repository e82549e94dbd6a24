"""The commands of the README run as printed, here on a small copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import load_config, to_yaml

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("checks", "configs", "data", "experiments", "inference", "model", "scripts", "training")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line
]
TINY = [
    "data.source=stories", "data.stories=40", "data.seq_len=16",
    "tokenizer.type=bpe", "tokenizer.vocab_size=340", "model.dim=16", "model.n_layers=2",
    "model.n_heads=2", "model.n_kv_heads=1", "model.head_dim=8", "model.hidden_dim=32",
    "train.max_steps=4", "train.micro_batch_size=2", "train.grad_accum_steps=1",
    "train.warmup_steps=1", "train.eval_interval=100", "train.save_interval=100",
    "train.compile=false", "train.device=cpu", "sample.max_tokens=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository whose configs are tiny and whose .venv is this Python."""
    folder = tmp_path_factory.mktemp("twin")
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ROOMS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in (folder / "configs").glob("*.yaml"):
        config = load_config(path, [*TINY, "run_dir=null"])
        path.write_text(re.sub("^run_dir: .*$", "run_dir: null", to_yaml(config), flags=re.M))
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "core").touch()  # `make` then installs nothing
    return folder


@pytest.mark.slow
def test_commands_run_as_printed(twin: Path) -> None:
    """A command in the README could be misspelt, out of date or out of order."""
    assert len(COMMANDS) >= 8 and COMMANDS[0] == "make train"
    environment = os.environ | {
        "BREEZE_CACHE": str(twin / "cache"),
        "PATH": f"{twin / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    for line in COMMANDS:
        done = subprocess.run(
            line, shell=True, cwd=twin, env=environment, input="", capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{line} printed nothing"


def test_python_example_runs() -> None:
    """The Python example could fail."""
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace: dict[str, object] = {}
    exec(snippet, namespace)
    assert type(namespace["model"]).__name__ == "Transformer"


def test_paths_exist() -> None:
    """The map or a table could name a file that does not exist."""
    names = set(re.findall(r"`((?:configs/)?[\w-]+\.(?:yaml|py))`", README)) - {"config.yaml"}
    assert names
    for name in names:
        found = [ROOT / name, ROOT / "configs" / name]
        assert any(path.exists() for path in found), name
    for module in re.findall(r"python -m ((?:scripts|experiments)\.\w+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
