"""Links, files, commands and settings in docs/ exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from configs.load import load_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}


def commands(text: str) -> list[str]:
    """Return the lines of every block of shell commands."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


COMMANDS = sorted({line for text in TEXTS.values() for line in commands(text)})


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_exist(page: str) -> None:
    """A page or a heading could have been renamed."""
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = ROOT / "docs" / (name or page)
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", TEXTS)
def test_files_exist(page: str) -> None:
    """A file could have been moved or renamed. NAME stands for a file that a reader will write."""
    for name in re.findall(r"`([\w./-]+\.(?:py|yaml))`", TEXTS[page]):
        found = (ROOT / name).exists() or (ROOT / "configs" / name).exists()
        assert found or "NAME" in name, name


def options_of(module: str, first: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Return the options that `--help` of a command lists. `first` names a part of `bench`."""
    part = first if module == "experiments.bench" else []
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([*part, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command, an option or a setting could have been renamed. No command is run."""
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    assert words[0] == "python"
    if words[1:3] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
        return
    module, rest = (words[2], words[3:]) if words[1] == "-m" else ("train", words[2:])
    assert {word for word in rest if word.startswith("--")} <= options_of(module, rest[:1], capsys)
    config = next((word for word in rest if word.startswith("configs/")), "configs/quickstart.yaml")
    settings = [word for word in rest if re.match(r"[a-z_.]+=", word)]
    load_config(ROOT / config, settings)
