"""A model of a file system: what a power cut leaves of the calls that a process made.

The content of a file is safe after fsync of the file, a name after fsync of its folder. Of all else
any part may be lost: each change of a name by itself, and content that is empty, half there or
zeros. This is what POSIX promises. Real file systems promise more, each something else.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from torture.faults import Call

MOST_SUBSETS = 5  # changes of names in a folder of which all subsets are tried; else a sample
State = dict[str, bytes | None]  # path below the root -> content; None: a folder


@dataclass(eq=False)
class File:
    """The content now, and the content that is safe; None: nothing is."""

    content: bytes = b""
    safe: bytes | None = None

    def after_a_power_cut(self) -> list[bytes]:
        """Return what the content may be."""
        if self.content == self.safe:
            return [self.content]
        safe = self.safe or b""
        kept = len(safe) if self.content.startswith(safe) else 0  # otherwise it was truncated
        lost = len(self.content) - kept
        half, zeros = self.content[: kept + lost // 2], self.content[:kept] + bytes(lost)
        return list(dict.fromkeys([self.content, half, zeros, safe]))


@dataclass(eq=False)
class Folder:
    """The names now, the names that are safe, and the changes since, in their order."""

    names: dict[str, "File | Folder"] = field(default_factory=dict)
    safe: dict[str, "File | Folder"] = field(default_factory=dict)
    changes: list[tuple[str | None, str, "File | Folder | None"]] = field(default_factory=list)

    def change(self, removed: str | None, name: str, node: "File | Folder | None") -> None:
        """Let `name` mean `node` (None: nothing) and remove another name, in one change."""
        self.changes.append((removed, name, node))
        _apply(self.names, removed, name, node)

    def after_a_power_cut(self, draw: random.Random) -> Iterator[dict[str, "File | Folder"]]:
        """Yield what the names may be: each change has reached the disk or not."""
        n = len(self.changes)
        if n <= MOST_SUBSETS:
            chosen = list(itertools.product((True, False), repeat=n))
        else:
            chosen = [tuple(at < count for at in range(n)) for count in range(n + 1)]
            chosen += [tuple(draw.random() < 0.5 for _ in range(n)) for _ in range(20)]
        for kept in chosen:
            names = dict(self.safe)
            for keep, change in zip(kept, self.changes, strict=True):
                if keep:
                    _apply(names, *change)
            yield names


def _apply(
    names: dict[str, File | Folder], removed: str | None, name: str, node: File | Folder | None
) -> None:
    if removed is not None:
        names.pop(removed, None)
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class Disk:
    """The folder `root` and everything below it; what it holds now is safe."""

    def __init__(self, root: Path) -> None:
        self._root, self._top = PurePosixPath(root), Folder()
        for path in sorted(root.rglob("*")):
            node = Folder() if path.is_dir() else File(path.read_bytes(), path.read_bytes())
            folder, name = self._place(str(path))
            assert folder is not None
            folder.names[name] = folder.safe[name] = node

    def apply(self, call: Call) -> None:
        """Do what a call did. A call that failed there does nothing here either."""
        folder, name = self._place(call.path)
        node = self._top if not name else folder.names.get(name) if folder else None
        if call.name == "fsync":
            if isinstance(node, Folder):
                node.safe, node.changes = dict(node.names), []
            elif node is not None:
                node.safe = node.content
        elif folder is None or not name:
            return
        elif call.name in ("create", "truncate"):
            if node is None:
                folder.change(None, name, File())
            elif call.name == "truncate" and isinstance(node, File):
                node.content = b""
        elif call.name == "write" and isinstance(node, File):
            node.content += call.content
        elif call.name == "mkdir" and node is None:
            folder.change(None, name, Folder())
        elif call.name in ("unlink", "rmdir") and node is not None:
            folder.change(None, name, None)
        elif call.name == "rename" and node is not None:
            target, second = self._place(call.second)
            assert target is folder, "the project renames within a folder only"
            folder.change(name, second, node)

    def now(self) -> State:
        """Return all contents as a process sees them."""
        return _state(self._top)

    def after_a_power_cut(self, draw: random.Random, most: int) -> list[State]:
        """Return distinct states in which a power cut may leave the disk, `most` at most.

        The first is the one in which everything is lost that is not safe.
        """
        states = list(itertools.islice(self._states(self._top, draw), 4 * most + 1))
        if len(states) > 4 * most:  # more than are tried: drawn from all, not the first of them
            states = [_drawn(self._top, draw) for _ in range(4 * most)]
        states.insert(0, _all_lost(self._top))
        found = list({frozenset(state.items()): state for state in states}.values())
        return found if len(found) <= most else [found[0], *draw.sample(found[1:], most - 1)]

    def _states(self, folder: Folder, draw: random.Random) -> Iterator[State]:
        for names in folder.after_a_power_cut(draw):
            yield from self._contents(sorted(names.items()), draw)

    def _contents(
        self, names: list[tuple[str, File | Folder]], draw: random.Random
    ) -> Iterator[State]:
        if not names:
            yield {}
            return
        (name, node), *rest = names
        for others in self._contents(rest, draw):
            if isinstance(node, File):
                for content in node.after_a_power_cut():
                    yield {name: content, **others}
            else:
                for below in self._states(node, draw):
                    yield {name: None, **{f"{name}/{k}": v for k, v in below.items()}, **others}

    def _place(self, path: str) -> tuple[Folder | None, str]:
        """Return the folder that holds `path`, and the name; no name for the root itself."""
        parts = PurePosixPath(path).relative_to(self._root).parts
        node: File | Folder | None = self._top
        for part in parts[:-1]:
            node = node.names.get(part) if isinstance(node, Folder) else None
        return node if isinstance(node, Folder) else None, parts[-1] if parts else ""


def _state(folder: Folder) -> State:
    state: State = {}
    for name, node in folder.names.items():
        if isinstance(node, File):
            state[name] = node.content
        else:
            state |= {name: None, **{f"{name}/{k}": v for k, v in _state(node).items()}}
    return state


def _all_lost(folder: Folder) -> State:
    """Return the state in which everything is lost that is not safe."""
    state: State = {}
    for name, node in folder.safe.items():
        if isinstance(node, File):
            state[name] = node.safe or b""
        else:
            state |= {name: None, **{f"{name}/{k}": v for k, v in _all_lost(node).items()}}
    return state


def _drawn(folder: Folder, draw: random.Random) -> State:
    """Return one state in which a power cut may leave a folder."""
    state: State = {}
    for name, node in draw.choice(list(folder.after_a_power_cut(draw))).items():
        if isinstance(node, File):
            state[name] = draw.choice(node.after_a_power_cut())
        else:
            state |= {name: None, **{f"{name}/{k}": v for k, v in _drawn(node, draw).items()}}
    return state
