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
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))]
SWEEP = "python -m experiments.sweep"
NOT_RUN = {  # commands of docs/ that need 2 GB of disk, 15 GB of memory, the user's file, minutes
    "python -m experiments.shard",
    f"{SWEEP} data.seq_len=4096 train.micro_batch_size=1 train.max_steps=750 "
    "train.eval_batch_size=1 --windows 128,full --folder runs/sweep-4096",
    f"{SWEEP} model.n_kv_heads=2 --windows 64 --steps 500 --folder runs/sweep-heads-2",
    f"{SWEEP} model.n_kv_heads=4 --windows 64 --steps 500 --folder runs/sweep-heads-4",
    "python -m experiments.bench attention",
    "python -m experiments.bench train",
    "python -m experiments.bench decode",
    "python -m experiments.bench start",
    "python -m experiments.bench learn configs/char.yaml data.path=FILE",
    "make bench",
    "python train.py configs/char.yaml data.path=FILE",
    "python train.py configs/char-large.yaml data.path=FILE",
    "python -m pytest -s tests/model/test_mistral_parity.py",
}


def commands(*texts: str) -> list[str]:
    """The lines of all blocks of shell commands, each once, in order."""
    blocks = [block for text in texts for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines() if line))


TINY = [
    "data.source=stories", "data.stories=40", "data.seq_len=16",
    "tokenizer.type=bpe", "tokenizer.vocab_size=340", "model.dim=16", "model.n_layers=2",
    "model.n_heads=2", "model.n_kv_heads=1", "model.head_dim=8", "model.hidden_dim=32",
    "train.max_steps=4", "train.micro_batch_size=2", "train.grad_accum_steps=1",
    "train.warmup_steps=1", "train.eval_interval=100", "train.save_interval=100",
    "train.compile=false", "train.device=cpu", "sample.max_tokens=10",
]  # fmt: skip

SHORTER = {"drill_steps": "train.drill_steps=1", "window_steps": "train.window_steps=2"}


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """A copy of all rooms and root files whose configs are tiny and whose .venv is this Python."""
    folder = tmp_path / "twin"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
        elif (path / "__init__.py").is_file():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, folder / path.name, ignore=ignored)
    (folder / "docs").mkdir()  # of `experiments.draw`
    for path in (folder / "configs").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        shorter = [change for name, change in SHORTER.items() if f"{name}:" in text]
        config = load_config(path, [*TINY, *shorter, "run_dir=null"])
        path.write_text(re.sub("^run_dir: .*$", "run_dir: null", to_yaml(config), flags=re.M))
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "core").touch()  # `make` then installs nothing
    return folder


def run_all(twin: Path, lines: list[str]) -> None:
    """Run commands one after the other at the root of the twin; each must succeed and print."""
    environment = os.environ | {
        "BREEZE_CACHE": str(twin / "cache"),
        "PATH": f"{twin / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=twin, env=environment, input="", capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert done.stdout.strip(), f"{line} printed nothing"


@pytest.mark.slow
def test_commands_run_as_printed(twin: Path) -> None:
    """A command in the README that is misspelt, out of date or out of order would fail here."""
    lines = commands(README) + re.findall(r"\| `(python -m .*?)` \|", README)
    assert len(lines) >= 14 and lines[0] == "make train"
    run_all(twin, lines)


@pytest.mark.slow
def test_commands_of_docs_run_as_printed(twin: Path) -> None:
    """A command in docs/ that is refused, or that needs a run which no earlier command trains."""
    lines = sorted(commands(*PAGES), key=lambda line: line != "make train")  # others need its run
    assert lines[0] == "make train" and set(lines) >= NOT_RUN
    run_all(twin, [line for line in lines if line not in NOT_RUN])


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
