"""The directories a run works in, the data it moves, and whether that arrived.

One directory on disk (what is served or sent, read into the page cache before use) and one on
tmpfs (what is received). Both hold a locked file while this program lives; a later run removes
those that a killed one left behind.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import stat
import tempfile
from pathlib import Path

from .namespaces import RigError

PREFIX = "quire-compare-"
BLOCK = 1 << 20
MIB = 1 << 20
SMALL_FILE_BYTES = 4096
SMALL_FILES_PER_DIRECTORY = 100
# The copied tree stops here: more files would only make the rounds longer.
TREE_BYTES_MAX = 1280 * MIB
SEED = 20
# Memory of both programs and of their sockets, beside that of the file.
WARM_MARGIN = 256 * MIB


class Workspace:
    """`disk` and `memory`, made here and removed by `close`."""

    def __init__(self, disk_parent: Path, memory_parent: Path, keep: bool) -> None:
        if file_system(memory_parent) != "tmpfs":
            raise RigError(f"{memory_parent} is not a tmpfs; name one with --memory-dir")
        self._keep = keep
        self._locks: list[int] = []
        self._directories: list[Path] = []
        self.disk = self._make(disk_parent)
        self.memory = self._make(memory_parent)
        self.data = subdirectory(self.disk, "data")
        self.state = subdirectory(self.disk, "state")
        self.logs = subdirectory(self.disk, "logs")
        self.disk_out = subdirectory(self.disk, "out")
        self.out = subdirectory(self.memory, "out")
        self.root = subdirectory(self.memory, "root")

    def _make(self, parent: Path) -> Path:
        for stale in parent.glob(PREFIX + "*"):
            remove_if_abandoned(stale)
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._directories.append(made)
        lock = os.open(made / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._locks.append(lock)
        return made

    def file(self, size: int) -> Path:
        """A file of `size` random bytes, made at first use and read into the page cache."""
        path = self.data / f"file-{size}"
        if not path.exists():
            source = random.Random(SEED)
            with open(path, "wb") as file:
                for offset in range(0, size, BLOCK):
                    file.write(source.randbytes(min(BLOCK, size - offset)))
        warm(path)
        return path

    def small_files(self, count: int) -> Path:
        top = self.data / f"small-{count}"
        source = random.Random(SEED)
        for number in range(0 if top.exists() else count):
            directory = top / f"{number // SMALL_FILES_PER_DIRECTORY:03}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number:06}").write_bytes(source.randbytes(SMALL_FILE_BYTES))
        warm(top)
        return top

    def real_tree(self, sources: list[Path], bytes_max: int) -> Path:
        """A copy of real files, so that nothing changes under the rounds."""
        top = self.data / "tree"
        if not top.exists():
            copy_up_to(sources, top, bytes_max)
        warm(top)
        return top

    def clear(self, directory: Path, name: str) -> None:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def close(self) -> list[Path]:
        """Removes the directories, or returns them if they are to be kept."""
        for lock in self._locks:
            os.close(lock)
        if self._keep:
            return self._directories
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)
        return []


def subdirectory(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


def file_system(path: Path) -> str:
    best, kind = -1, ""
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, point, this, *_ = line.split()
            if path.resolve().is_relative_to(point) and len(point) >= best:
                best, kind = len(point), this
    return kind


def remove_if_abandoned(directory: Path) -> None:
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def copy_up_to(sources: list[Path], top: Path, bytes_max: int) -> None:
    total = 0
    for number, source in enumerate(sources):
        for file in walk(source):
            size = file.stat().st_size
            if total + size > bytes_max:
                continue
            target = top / str(number) / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(file, target)
            except FileNotFoundError:
                # A build may be running there.
                continue
            total += size


def walk(top: Path) -> list[Path]:
    """The regular files below `top`, in a fixed order."""
    found = []
    for directory, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = Path(directory) / name
            if stat.S_ISREG(path.lstat().st_mode):
                found.append(path)
    return found


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in walk(path))


def warm(path: Path) -> None:
    for file in [path] if path.is_file() else walk(path):
        with open(file, "rb", buffering=0) as source:
            while source.read(BLOCK):
                pass


def warm_memory(directory: Path, count: int) -> None:
    """Touches memory that the file system `directory` is about to need, and gives it back.

    A virtual machine gets its memory from the host when a page is touched for the first time, which
    takes up to three seconds for a GiB: without this the tool is faster that runs later.
    """
    path = directory / "warm"
    zeros = bytes(BLOCK)
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(-(-(count + WARM_MARGIN) // BLOCK)):
                file.write(zeros)
    finally:
        path.unlink(missing_ok=True)


def difference(expected: Path, got: Path) -> str | None:
    """What is wrong with the copy `got`, byte by byte, or nothing."""
    if expected.is_file():
        return file_difference(expected, got)
    wanted = {file.relative_to(expected) for file in walk(expected)}
    present = {file.relative_to(got) for file in walk(got)}
    if wanted != present:
        return f"{len(wanted - present)} files missing, {len(present - wanted)} too many"
    for name in sorted(wanted):
        if wrong := file_difference(expected / name, got / name):
            return wrong
    return None


def file_difference(expected: Path, got: Path) -> str | None:
    if not got.is_file():
        return f"{got.name} did not arrive"
    if got.stat().st_size != expected.stat().st_size:
        return f"{got.name} has {got.stat().st_size} bytes instead of {expected.stat().st_size}"
    with open(expected, "rb", buffering=0) as left, open(got, "rb", buffering=0) as right:
        while block := left.read(BLOCK):
            if block != right.read(BLOCK):
                return f"{got.name} has other content"
    return None
