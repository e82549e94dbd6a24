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


# One process runs all commands, because each would spend seconds on importing torch.
RUN = """
import importlib, sys
lines, codes, errors = [[]], [], sys.stdout.errors
for word in sys.argv[1:]:
    lines.append([]) if word == "THEN" else lines[-1].append(word)
for sys.argv in lines:
    sys.stdout.reconfigure(errors=errors)  # each command must set it for itself
    codes.append(importlib.import_module(sys.argv[0]).main())
    print("\\f", flush=True)
sys.exit(max(codes))
"""


def call(console: str, *lines: list[str]) -> list[str]:
    """Run commands, each a module and its arguments, in a process whose console is a pipe; return
    what each printed."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    words = [word for line in lines for word in ("THEN", *line)][1:]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words], cwd=ROOT, env=variables | CONSOLES[console],
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode("latin-1")
    *printed, rest = done.stdout.decode("latin-1").split("\f\n")
    assert rest == "" and len(printed) == len(lines)
    return printed


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
    trained, sampled, scored, described = call(
        console,
        ["train", *words(run, text, "sample.prompt=Größe")],
        ["scripts.sample", str(run), "--prompt", "鏡", "--max-tokens", "9"],
        ["scripts.evaluate", str(run), "--split", "val"],
        ["scripts.corpus", *words(run, text, "--no-time")],
    )
    assert "?" in trained and last(run).is_file()
    assert sampled.startswith("?")
    assert "bits per byte" in scored
    assert "Gr" in described
