"""Consoles whose encoding lacks the characters of a text or of a file's name: every command prints
replacements and ends with exit code 0."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT, last, words

TEXT = "Größe, 鏡の国, Україна, 🙂 – „Ende“.\n"
CONSOLES = {
    "ascii": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    "ascii without UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Windows": {"PYTHONIOENCODING": "cp1252"},
}


def call(console: str, *line: str) -> str:
    """Run a command whose console is a pipe; return what it printed."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    done = subprocess.run(
        [sys.executable, *line], cwd=ROOT, env=variables | CONSOLES[console], capture_output=True
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode("latin-1")
    return done.stdout.decode("latin-1")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text in several scripts, in a folder whose name is not UTF-8."""
    folder = tmp_path_factory.mktemp("consoles") / "caf\udce9-鏡"
    folder.mkdir()
    path = folder / "Größe.txt"
    path.write_text(TEXT * 400, encoding="utf-8")
    return path


@pytest.mark.parametrize("console", CONSOLES)
def test_every_command_prints_replacements(console: str, text: Path, tmp_path: Path) -> None:
    """A command could end in a traceback, because the model generated a character of its text."""
    run = tmp_path / "鏡"  # safetensors cannot open a file below a folder whose name is not UTF-8
    assert "?" in call(console, "train.py", *words(run, text, "sample.prompt=Größe"))
    assert last(run).is_file()
    sample = call(console, "-m", "scripts.sample", str(run), "--prompt", "鏡", "--max-tokens", "9")
    assert sample.startswith("?")
    assert "bits per byte" in call(console, "-m", "scripts.evaluate", str(run), "--split", "val")
    corpus = words(run, text, "--no-time")
    assert "Gr" in call(console, "-m", "scripts.corpus", *corpus)
