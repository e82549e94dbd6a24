"""The user's own text is read without opening a network connection.

Libraries report their use to their makers; where nothing answers, each report waits. The processes
here have no network: `sitecustomize`, which Python imports first, replaces the functions that open
connections by one that logs its caller.
"""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import tiny

CLOSED = r"""
import os, socket, traceback

def refuse(*arguments, **options):
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(f"{arguments}: {traceback.format_stack(limit=12)}\n")
    raise OSError("the network is closed")

def is_internet(one):
    return one.family in (socket.AF_INET, socket.AF_INET6)

class Closed(socket.socket):
    def connect(self, address):
        return refuse(address) if is_internet(self) else super().connect(address)

    def connect_ex(self, address):
        return refuse(address) if is_internet(self) else super().connect_ex(address)

    def sendto(self, *arguments):
        return refuse(*arguments) if is_internet(self) else super().sendto(*arguments)

socket.socket = Closed
socket.getaddrinfo = socket.gethostbyname = refuse
"""


def run(folder: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run Python at the root of the repository without a network; return what tried to use it."""
    (folder / "sitecustomize.py").write_text(CLOSED)
    log = folder / "connections"
    log.unlink(missing_ok=True)
    settings = {
        "PYTHONPATH": f"{folder}:{tiny.ROOT}", "CONNECTIONS": str(log),
        "BREEZE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "home"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *command], cwd=tiny.ROOT, env=os.environ | settings,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    return done, log.read_text() if log.exists() else ""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A file of each kind that is read."""
    folder = tmp_path / "library"
    folder.mkdir()
    texts = [tiny.english(300, seed) for seed in range(20)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "a.txt").write_text("\n".join(texts))
    (folder / "b.jsonl").write_text(lines)
    (folder / "c.json").write_text(json.dumps([{"text": text} for text in texts]))
    (folder / "d.csv").write_text(
        "text\n" + "".join(json.dumps(text)[:-3] + '"\n' for text in texts)
    )
    (folder / "e.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "f.parquet")
    return folder


def test_the_network_is_closed(tmp_path: Path) -> None:
    """Otherwise the tests below would show nothing."""
    program = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    done, connections = run(tmp_path, "-c", program)
    assert "the network is closed" in done.stderr and "127.0.0.1" in connections


def test_reading_files_opens_no_connection(tmp_path: Path, library: Path) -> None:
    """Nor does it import the library that would."""
    program = (
        "import sys; from data.sources.files import Files; "
        f"documents = list(Files({str(library)!r}).documents()); "
        "print(len(documents), 'datasets' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    done, connections = run(tmp_path, "-c", program)
    assert (done.stdout.strip(), connections) == ("101 False False", ""), done.stderr


def test_train_sample_evaluate_open_no_connection(
    tmp_path: Path, library: Path, cache: Path
) -> None:
    tiny.own_cache(tmp_path, cache)  # `run` uses this folder
    folder = str(tmp_path / "run")
    commands = [
        ["train.py", *tiny.words(tmp_path / "run", library, "data.processes=2")],
        ["-m", "scripts.sample", folder, "--prompt", "the"],
        ["-m", "scripts.evaluate", folder],
    ]
    for command in commands:
        done, connections = run(tmp_path, *command)
        assert (done.returncode, connections) == (0, ""), done.stderr
