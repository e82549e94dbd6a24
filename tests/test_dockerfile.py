"""The Dockerfile runs the README's commands. Docker itself is not needed, and not used."""

import re
from pathlib import Path

from test_readme import README, commands

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """The instructions with their arguments: continued lines are joined, comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    words = (line.partition(" ") for line in joined.splitlines() if line)
    return [(name, arguments) for name, _, arguments in words]


def test_it_runs_the_two_commands_of_the_readme() -> None:
    """A command that changed in the README, and an image that no longer builds."""
    runs = [arguments for name, arguments in instructions() if name == "RUN"]
    assert runs[-2:] == commands(README)[:2]
    assert runs[-1].split()[0] == ".venv/bin/python"


def test_every_instruction_is_one_of_docker() -> None:
    """A line that is no instruction, or a user that is root."""
    names = [name for name, _ in instructions()]
    assert set(names) <= {"FROM", "RUN", "USER", "WORKDIR", "COPY", "ENV", "CMD"}
    assert names[0] == "FROM" and names[-1] == "CMD"
    assert names.index("USER") < names.index("WORKDIR") < names.index("COPY")


def test_what_it_copies_first_exists_and_installs() -> None:
    """`make setup` without one of the files that it reads: the layer would not build."""
    _, first = next(pair for pair in instructions() if pair[0] == "COPY")
    copied = set(first.split()[1:-1])
    assert all((ROOT / name).is_file() for name in copied)
    rule = re.search(r"^\.venv/core: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert rule and copied >= {"Makefile", *rule[1].split()}
    assert 'readme = "README.md"' in (ROOT / "pyproject.toml").read_text()
    assert "README.md" in copied  # setuptools reads it


def test_nothing_local_goes_into_the_image() -> None:
    """The .venv of this machine would replace that of the image, and runs/ would fill it."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".venv", "runs", ".git"} <= set(ignored)
    for path in (ROOT / ".gitignore").read_text(encoding="utf-8").split():
        assert path.strip("/") in {name.removeprefix("**/") for name in ignored}, path
