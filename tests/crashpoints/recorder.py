"""Record every change that a run makes to a folder, in order, and play any part of it again.

A crash leaves the folder as some part of this record: all changes up to one moment, the last write
perhaps torn. HDF5 is given a file object, so that its own writes are seen one by one; all others
are seen in `os` and `pathlib`, which the package uses for them.
"""

import contextlib
import io
import os
import pathlib
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import h5py


@dataclass(frozen=True)
class FolderChange:
    """One change to a folder.

    Attributes:
        kind: create, write, truncate, link, rename or unlink
        name: the file
        offset: of a write; the length of a truncation
        data: the bytes of a write
        target: the new name of a link or a renamed file
    """

    kind: str
    name: str
    offset: int = 0
    data: bytes = b""
    target: str = ""

    @property
    def can_tear(self):
        """Only a write of several bytes can be done by half."""
        return self.kind == "write" and len(self.data) > 1


class FolderState:
    """The files of a folder in memory: the names, some of one file, and the bytes of each."""

    def __init__(self):
        self.files = {}

    def apply(self, change, *, torn=False):
        """Change the files; a torn write writes the first half of its bytes."""
        if change.kind == "create":
            self.files[change.name] = bytearray()
        elif change.kind == "write":
            data = change.data[: len(change.data) // 2] if torn else change.data
            content = self.files[change.name]
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(data)] = data
        elif change.kind == "truncate":
            content = self.files[change.name]
            content.extend(bytes(max(0, change.offset - len(content))))
            del content[change.offset :]
        elif change.kind == "link":
            self.files[change.target] = self.files[change.name]
        elif change.kind == "rename":
            self.files[change.target] = self.files.pop(change.name)
        else:
            del self.files[change.name]

    def write_folder(self, folder):
        """Write the files to a new folder."""
        folder.mkdir()
        written = {}
        for name, content in self.files.items():
            if id(content) in written:
                (folder / name).hardlink_to(written[id(content)])
            else:
                (folder / name).write_bytes(content)
                written[id(content)] = folder / name


def read_state(folder):
    """Read the files of a folder, which may be missing."""
    state, contents = FolderState(), {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        number = path.stat().st_ino
        contents.setdefault(number, bytearray(path.read_bytes()))
        state.files[path.name] = contents[number]
    return state


class LoggedFile(io.FileIO):
    """A file whose changes are recorded."""

    def __init__(self, path, mode, changes):
        super().__init__(path, mode)
        self._name, self._changes = Path(path).name, changes
        if "x" in mode:
            changes.append(FolderChange("create", self._name))

    def write(self, data):
        self._changes.append(FolderChange("write", self._name, self.tell(), bytes(data)))
        return super().write(data)

    def truncate(self, size=None):
        self._changes.append(FolderChange("truncate", self._name, size))
        return super().truncate(size)


class _Recorder:
    """Stand in for functions of `os`, and note the changes to the files of one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.changes = []
        self.opened = {}
        self.plain = {n: getattr(os, n) for n in ("open", "write", "close", "link", "unlink")}
        self.plain |= {n: getattr(os, n) for n in ("rename", "replace")}
        self.plain_open = pathlib.Path.open

    def is_inside(self, path):
        return Path(os.fspath(path)).parent == self.folder

    def open(self, path, flags, mode=0o777, **options):
        inside = isinstance(path, str | os.PathLike) and self.is_inside(path)
        is_new = inside and not os.path.lexists(path)
        number = self.plain["open"](path, flags, mode, **options)
        if is_new:
            self.changes.append(FolderChange("create", Path(path).name))
        if inside and flags & (os.O_WRONLY | os.O_RDWR):
            assert flags & os.O_APPEND or "lock" in str(path), f"{path} is not appended to"
            assert not flags & os.O_TRUNC, f"{path} is truncated"
            self.opened[number] = Path(path)
        return number

    def write(self, number, data):
        if number in self.opened:
            path = self.opened[number]
            change = FolderChange("write", path.name, path.stat().st_size, bytes(data))
            self.changes.append(change)
            assert self.plain["write"](number, data) == len(data)
            return len(data)
        return self.plain["write"](number, data)

    def close(self, number):
        self.opened.pop(number, None)
        self.plain["close"](number)

    def link(self, source, target, **options):
        self.plain["link"](source, target, **options)
        self._note_names("link", source, target)

    def rename(self, source, target, **options):
        self.plain["rename"](source, target, **options)
        self._note_names("rename", source, target)

    def unlink(self, path, **options):
        self.plain["unlink"](path, **options)
        if self.is_inside(path):
            self.changes.append(FolderChange("unlink", Path(path).name))

    def open_path(self, path, mode="r", *arguments, **options):
        if self.is_inside(path) and set(mode) & set("wax+"):
            assert mode == "r+b", f"{path} is opened as {mode}"
            return io.BufferedRandom(LoggedFile(path, mode, self.changes))
        return self.plain_open(path, mode, *arguments, **options)

    def open_hdf5(self, path):
        # The library does not close the file object that it is given.
        raw = self.opened[f"hdf5 {path}"] = LoggedFile(path, "x+b", self.changes)
        return h5py.File(raw, "w")

    def _note_names(self, kind, source, target):
        if self.is_inside(source):
            names = Path(source).name, Path(target).name
            self.changes.append(FolderChange(kind, names[0], target=names[1]))


@contextlib.contextmanager
def record_changes(folder):
    """Record the changes to the files of a folder; yields the list that they are appended to."""
    recorder = _Recorder(folder)
    with contextlib.ExitStack() as patches:
        names = ("open", "write", "close", "link", "unlink", "rename")
        for name in names:
            patches.enter_context(mock.patch.object(os, name, getattr(recorder, name)))
        patches.enter_context(mock.patch.object(os, "replace", recorder.rename))
        patches.enter_context(
            mock.patch.object(pathlib.Path, "open", lambda *a, **k: recorder.open_path(*a, **k))
        )
        patches.enter_context(mock.patch("mrx.shards.writer.open_new_file", recorder.open_hdf5))
        yield recorder.changes
    for raw in recorder.opened.values():
        if isinstance(raw, io.FileIO):
            raw.close()


def find_unrecorded(folder, before, changes):
    """Play all changes, and name the files that then differ from the folder: none if all is seen.

    Args:
        folder: the folder after the run
        before: its state before the run, which is changed
        changes: the changes of the run
    """
    for change in changes:
        before.apply(change)
    after = read_state(folder)
    names = before.files.keys() | after.files.keys()
    return sorted(n for n in names if before.files.get(n) != after.files.get(n))
