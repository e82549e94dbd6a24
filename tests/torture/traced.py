"""One undisturbed pass of a writer, with which the states that faults leave are compared."""

import shutil
from pathlib import Path, PurePosixPath

from torture.disk_model import Disk, State
from torture.faults import Call, recorded
from torture.writers import Writer

from storage import remove_torn_files


class Traced:
    """What a writer finds, the calls that it makes, and what it leaves.

    `folder` must be empty. `make` makes the earlier state again, in a folder of the same path.
    """

    def __init__(self, writer: Writer, folder: Path) -> None:
        self.writer, self.folder = writer, folder
        self.make()
        self.earlier = visible(Disk(folder).now())
        disk = Disk(folder)
        self.calls: list[Call] = recorded(lambda: writer.write(folder), folder)
        self._whole = {path: {content} for path, content in self.earlier.items()}
        states = []
        for call in self.calls:
            disk.apply(call)
            states.append(visible(disk.now()))
            if call.name == "write":
                self._refuse_in_place(call)
            for path, content in states[-1].items():
                self._whole.setdefault(path, set()).add(content)
        self.later = states[-1] if states else self.earlier
        self._always = {path for path in self.earlier if all(path in s for s in states)}
        assert visible(Disk(folder).now()) == self.later, "the model of the disk differs from it"

    def make(self) -> None:
        """Make the earlier state."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.writer.before(self.folder)

    def problem(self, returned: bool = False, after_a_power_cut: bool = False) -> str | None:
        """Return what is wrong with the files now; `returned`: the writer has ended."""
        state = visible(Disk(self.folder).now())
        for path, content in state.items():
            if self._is_appended(path):
                if not after_a_power_cut and not self._is_beginning(path, content):
                    return f"{path} is not a beginning of what is appended"
            elif content not in self._whole.get(path, ()):
                return f"{path} is torn: {len(content or b'')} bytes"
        lost = self._always - state.keys() - set(self.writer.appended)
        if lost:
            return f"lost: {sorted(lost)}"
        if returned:
            for path, content in self.later.items():
                if not self._is_appended(path) and state.get(path, b"") != content:
                    return f"the writer had returned, but {path} is not what it wrote"
        if self.writer.as_one and not self._all_or_nothing(state):
            return f"a part of the files is there: {sorted(state)}"
        return self.writer.torn(self.folder)

    def recover(self) -> str | None:
        """Clean up and write again, as the next command does; return what is wrong then."""
        remove_torn_files(self.folder)
        if torn := [path.name for path in self.folder.rglob("*.part")]:
            return f"remove_torn_files left {torn[0]}"
        if not (self.writer.as_one and visible(Disk(self.folder).now()) == self.later):
            self.writer.write(self.folder)
        state = visible(Disk(self.folder).now())
        return (
            None
            if state == self.later
            else f"written again, it differs: {_differs(state, self.later)}"
        )

    def _refuse_in_place(self, call: Call) -> None:
        path = str(PurePosixPath(call.path).relative_to(self.folder))
        assert _is_hidden(path) or self._is_appended(path), f"{path} is written in place"

    def _is_appended(self, path: str) -> bool:
        return path in self.writer.appended

    def _is_beginning(self, path: str, content: bytes | None) -> bool:
        assert content is not None
        whole = self.later[path] or b""
        return whole.startswith(content) or content == self.earlier.get(path)

    def _all_or_nothing(self, state: State) -> bool:
        return state in (self.earlier, self.later)


def put(folder: Path, state: State) -> None:
    """Make a folder that holds a state."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, content in sorted(state.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def visible(state: State) -> State:
    """Return the state without unfinished files and without the file of the lock."""
    return {path: content for path, content in state.items() if not _is_hidden(path)}


def _is_hidden(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return parts[-1] == ".lock" or any(p.startswith(".") and p.endswith(".part") for p in parts)


def _differs(one: State, other: State) -> str:
    return ", ".join(sorted(p for p in one.keys() | other.keys() if one.get(p) != other.get(p)))
