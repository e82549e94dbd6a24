"""data/sources/paths.py: which files a path stands for."""

import os
import random
from pathlib import Path, PurePosixPath

import pytest

from data.sources.files import Files
from data.sources.paths import find_files
from errors import UserError


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def found(path: Path | str) -> list[str]:
    return list(find_files(str(path)))


# ---------------------------------------------------------------------------- symbolic links


def test_folders_behind_links_are_read_once(tmp_path: Path) -> None:
    """A linked folder on another disk that is skipped; a loop of links that is read without end."""
    write(tmp_path, "texts/a.txt", "texts/deep/b.txt", "elsewhere/c.txt", "elsewhere/deep/d.txt")
    (tmp_path / "texts" / "library").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "texts" / "again").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "texts" / "deep" / "loop").symlink_to(tmp_path / "texts")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    expected = ["a.txt", "again/d.txt", "deep/b.txt", "library/c.txt"]
    assert found(tmp_path / "texts") == expected
    assert found(tmp_path / "texts" / "**" / "*.txt") == expected


def test_a_file_keeps_its_own_name_beside_links_to_it(tmp_path: Path) -> None:
    """Its name decides its split: a link that is added must not move it."""
    write(tmp_path, "m/b.txt")
    (tmp_path / "a.txt").symlink_to(tmp_path / "m" / "b.txt")
    (tmp_path / "0").symlink_to(tmp_path / "m")
    assert found(tmp_path) == ["m/b.txt"]
    (tmp_path / "m" / "gone.txt").symlink_to(tmp_path / "nothing")
    assert [document.name for document in Files(str(tmp_path)).documents()] == ["m/b.txt"]


def test_a_broken_link_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "a.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.txt")  # opening it would never return
    assert [document.name for document in Files(str(tmp_path)).documents()] == ["a.txt"]
    notes = capsys.readouterr().err
    assert "b.txt is a broken symbolic link" in notes and "pipe.txt is not a regular file" in notes


# ---------------------------------------------------------------------------- what is left out


@pytest.fixture
def project(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of texts in which training took place."""
    folder = tmp_path / "project"
    write(
        folder, "a.txt", "notes/b.txt", "notes/config.yaml", "runs/one/config.yaml",
        "runs/one/samples.txt", "runs/one/metrics.jsonl", "runs/one/checkpoints/x.txt",
        "runs/two/config.yaml", "runs/two/tokenizer.model", "runs/two/samples.txt",
        "env/pyvenv.cfg", "env/lib/c.txt", "src/__pycache__/d.txt", "node_modules/e.txt",
        ".git/f.txt", ".hidden.txt", "tool/CACHEDIR.TAG", "tool/g.txt", "cache/h.txt",
    )  # fmt: skip
    monkeypatch.setenv("BREEZE_CACHE", str(folder / "cache"))
    return folder


def test_own_output_is_no_input(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run that reads the samples of the first trains on what a model wrote."""
    monkeypatch.chdir(project)
    assert found(".") == ["a.txt", "notes/b.txt", "notes/config.yaml"]
    assert capsys.readouterr().err == (
        "note: left out of .: caches (cache, tool), hidden (.git, .hidden.txt), programs (env, "
        "node_modules, src/__pycache__), runs of training (runs/one, runs/two)\n"
    )
    assert found("**/*.txt") == ["a.txt", "notes/b.txt"]
    assert found("**") == ["a.txt", "notes/b.txt", "notes/config.yaml"]
    assert found("*.txt") == ["a.txt"]
    assert found("*/*.txt") == ["b.txt"]
    with pytest.raises(UserError, match=r"matches no file"):
        find_files("runs/*/samples.txt")
    with pytest.raises(UserError, match=r"\[z-a\]\.txt is not a pattern: bad character range z-a"):
        find_files("[z-a].txt")
    with pytest.raises(UserError, match="has no files to read in it"):
        find_files("runs")


def test_a_named_file_or_folder_is_always_read(project: Path) -> None:
    """A file or folder that the user names is read, whatever it is."""
    assert found(project / "runs" / "one" / "samples.txt") == ["samples.txt"]
    assert "samples.txt" in found(project / "runs" / "one")
    assert found(project / ".git") == ["f.txt"]


def test_a_run_that_starts_changes_nothing(project: Path) -> None:
    """Training on data.path=. writes its run there; the text must stay the same on resume."""
    before = Files(str(project)).fingerprint()
    write(project, "runs/three/config.yaml", "runs/three/tokenizer.model", "runs/three/x.txt")
    assert Files(str(project)).fingerprint() == before


# ---------------------------------------------------------------------------- globs


@pytest.mark.parametrize("seed", range(20))
def test_globs_match_what_the_shell_would(tmp_path: Path, seed: int) -> None:
    """Compared with Python's own `glob`, in a folder without links and hidden files."""
    draw = random.Random(seed)
    names = ["a", "b1", "ab", "c[d]", "e.txt", "f^g", "h-i", "a.md"]
    for _ in range(25):
        path = PurePosixPath(*draw.choices(names, k=draw.randint(1, 4)))
        is_free = not any((tmp_path / parent).is_file() for parent in path.parents)
        if is_free and not (tmp_path / path).is_dir():
            write(tmp_path, str(path))
    wildcards = ["*", "**", "?", "a*", "*.*", "[ab]*", "[!a]*", "c[[]d]", "*[]^-]*", "[a-e]*", "a"]
    for _ in range(60):
        pattern = "/".join(draw.choices(wildcards, k=draw.randint(1, 3)))
        if not any(sign in pattern for sign in "*?["):
            continue
        expected = sorted({path for path in tmp_path.glob(pattern) if path.is_file()})
        if pattern.endswith("**"):  # which pathlib matches with folders only, before 3.13
            expected = sorted({path for path in tmp_path.glob(f"{pattern}/*") if path.is_file()})
        try:
            matched = sorted(find_files(f"{tmp_path}/{pattern}").values())
        except UserError:
            matched = []
        assert matched == expected, pattern
