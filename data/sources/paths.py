"""The files that a path stands for: a file, a folder with its subfolders, or a glob.

A folder and a glob leave out hidden files and folders that programs write beside the text: runs of
training, caches, virtual environments, packages. Symbolic links to folders are followed; each
folder and each file is read once.
"""

import glob
import os
import re
import sys
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path, PurePath

from errors import UserError
from storage import cache_folder

_PROGRAMS = {"__pycache__", "node_modules", "site-packages"}  # names of folders of programs
_NAMED = 3  # paths that are listed per reason; the others are counted


def find_files(path: str) -> dict[str, Path]:
    """Return the files that `path` stands for, sorted, by name. The name is the path below the
    common folder, so it does not change if the folder is moved. Reports what is left out.

    Raises `UserError` if there is no file.
    """
    root = Path(path).expanduser()
    if root.is_dir():
        files, base = _walk(root), root
    elif root.exists():
        files, base = [root], root.parent
    elif glob.has_magic(path):
        files = _matches(str(root))
        if not files:
            raise UserError(f"{path} matches no file: check the pattern", "path")
        base = Path(os.path.commonpath([file.parent for file in files]))
    else:
        raise UserError(f"{path} does not exist: check the spelling", "path")
    if not files:
        raise UserError(f"{path} has no files to read in it", "path")
    return {file.relative_to(base).as_posix(): file for file in files}


def _matches(pattern: str) -> list[Path]:
    """Return the files that a glob matches. `**` stands for any number of folders."""
    parts = Path(pattern).parts
    start = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:start])
    depth = None if "**" in parts else len(parts) - start
    try:
        matcher = re.compile(_expression(parts[start:]))
    except re.error as error:  # such as [z-a]
        raise UserError(f"{pattern} is not a pattern: {error}", "path") from None
    files = _walk(base, depth) if base.is_dir() else []
    return [file for file in files if matcher.fullmatch(file.relative_to(base).as_posix())]


def _expression(parts: tuple[str, ...]) -> str:
    """Translate the parts of a glob into a regular expression for the path of a file."""
    pieces = ["(?:.*/)?" if part == "**" else f"{_translate(part)}/" for part in parts[:-1]]
    return "".join([*pieces, ".*" if parts[-1] == "**" else _translate(parts[-1])])


def _translate(part: str) -> str:
    """Translate the wildcards of one name in a glob: `*`, `?`, `[abc]` and `[!abc]`."""
    pieces = []
    for piece in re.split(r"(\*|\?|\[!?\]?[^\]]*\])", part):
        if piece in ("*", "?"):
            pieces.append("[^/]*" if piece == "*" else "[^/]")
        elif len(piece) > 2 and piece[0] == "[":
            inside = piece[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            pieces.append(f"[^{inside[1:]}]" if inside[0] == "!" else f"[{inside}]")
        else:
            pieces.append(re.escape(piece))
    return "".join(pieces)


def _walk(folder: Path, depth: int | None = None) -> list[Path]:
    """Return the files at most `depth` levels below `folder` (None: at any depth), sorted. Each
    real file is returned once. Reports what is left out."""
    left_out: dict[str, list[Path]] = defaultdict(list)
    files: dict[str, Path] = {}
    for file in _visit(folder, depth, left_out):
        files.setdefault(os.path.realpath(file), file)
    if left_out:
        print(f"note: left out of {folder}: {_summary(folder, left_out)}", file=sys.stderr)
    return sorted(files.values())


def _visit(root: Path, depth: int | None, left_out: dict[str, list[Path]]) -> Iterator[Path]:
    """Yield the files below `root`, those behind symbolic links last, so that a file that can be
    reached without a link gets its name from that path. Adds to `left_out`, by reason."""
    folders, linked_folders, linked_files = [root], deque[Path](), []
    visited = set()
    while folders or linked_folders:
        folder = folders.pop() if folders else linked_folders.popleft()
        if (real := os.path.realpath(folder)) in visited:
            continue
        visited.add(real)
        try:
            entries = sorted(folder.iterdir())
        except PermissionError:
            left_out["not permitted to read"].append(folder)
            continue
        is_deepest = depth is not None and len(folder.relative_to(root).parts) + 1 >= depth
        for entry in entries:
            if reason := _reason(entry):
                left_out[reason].append(entry)
            elif not entry.is_dir():
                if entry.is_symlink():
                    linked_files.append(entry)
                else:
                    yield entry
            elif not is_deepest:
                (linked_folders if entry.is_symlink() else folders).append(entry)
    yield from linked_files


def _reason(entry: Path) -> str:
    """Return why a file or folder below the user's folder is left out, or ""."""
    if entry.name.startswith("."):
        return "hidden"
    return _own_output(entry) if entry.is_dir() else ""


def _own_output(folder: Path) -> str:
    """Return the kind of output that `folder` holds, or "" if it may hold the user's text."""
    if (folder / "config.yaml").is_file() and any(
        (folder / name).exists() for name in ("checkpoints", "metrics.jsonl", "tokenizer.model")
    ):
        return "runs of training"
    if folder.name in _PROGRAMS or (folder / "pyvenv.cfg").is_file():
        return "programs"
    is_cache = os.path.realpath(folder) == os.path.realpath(cache_folder())
    return "caches" if is_cache or (folder / "CACHEDIR.TAG").is_file() else ""


def _summary(folder: Path, left_out: dict[str, list[Path]]) -> str:
    """Return what is left out, by reason, with the first paths of each."""
    kinds = []
    for reason, paths in sorted(left_out.items()):
        names = [PurePath(path.relative_to(folder)).as_posix() for path in sorted(paths)]
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        kinds.append(f"{reason} ({', '.join(names[:_NAMED])}{more})")
    return ", ".join(kinds)
