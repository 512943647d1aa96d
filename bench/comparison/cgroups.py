"""Limits of processor time and memory for one side, by control groups of either version.

A group is made below the one that this program runs in, or beside it where version 2 wants that,
and is removed again. No controller is switched on for it: where one is missing there are no limits.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from .namespaces import RigError

PERIOD_US = 100_000
EMPTY_S = 5.0
CONTROLLERS = {"cpu", "memory"}
NAME = "quire-compare"


class NoGroups(Exception):
    """Why processes can't be limited here."""


class Group:
    """One side's limits, as the directories whose `cgroup.procs` its processes enter."""

    def __init__(self, directories: list[Path], settings: dict[Path, str]) -> None:
        self._directories = directories
        try:
            for directory in directories:
                directory.mkdir()
            for file, value in settings.items():
                file.write_text(value)
        except OSError as error:
            self.close()
            raise NoGroups(f"no control group: {error}") from error

    @classmethod
    def create(cls, side: str, cores: float, memory_bytes: int) -> Group:
        name, quota = f"{NAME}-{os.getpid()}-{side}", int(cores * PERIOD_US)
        if parent := unified_parent():
            group = parent / name
            return cls([group], {group / "cpu.max": f"{quota} {PERIOD_US}", group / "memory.max": str(memory_bytes)})
        parents = {controller: legacy_parent(controller) for controller in sorted(CONTROLLERS)}
        if missing := [controller for controller, parent in parents.items() if parent is None]:
            raise NoGroups(f"no control group with a limit of {' and '.join(missing)} can be made here")
        cpu, memory = parents["cpu"] / name, parents["memory"] / name
        return cls([cpu, memory], {cpu / "cpu.cfs_period_us": str(PERIOD_US), cpu / "cpu.cfs_quota_us": str(quota),
                                   memory / "memory.limit_in_bytes": str(memory_bytes)})

    def command(self, argv: list[str]) -> list[str]:
        """The same command, from its first instruction within the limits."""
        enter = " && ".join(f"echo $$ > '{directory}/cgroup.procs'" for directory in self._directories)
        return ["sh", "-c", f'{enter} && exec "$@"', "sh", *argv]

    def close(self) -> None:
        """Removes the group, which the kernel refuses until the last process is gone."""
        end = time.monotonic() + EMPTY_S
        for directory in self._directories:
            while directory.exists():
                try:
                    directory.rmdir()
                except OSError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.01)


def mounts(kind: str) -> list[tuple[Path, set[str]]]:
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, this, options, *_ = line.split()
        if this == kind:
            found.append((Path(point), set(options.split(","))))
    return found


def own_path(controller: str) -> str | None:
    """This program's group in the hierarchy of a controller; that of version 2 has no name."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    return None


def unified_parent() -> Path | None:
    """The nearest group around this program that hands both controllers on to its children."""
    own = own_path("")
    for point, _ in mounts("cgroup2") if own is not None else []:
        group = point / own
        for candidate in (group, *group.parents):
            if not candidate.is_relative_to(point):
                break
            with contextlib.suppress(OSError):
                if CONTROLLERS <= set((candidate / "cgroup.subtree_control").read_text().split()):
                    return candidate
    return None


def legacy_parent(controller: str) -> Path | None:
    own = own_path(controller)
    for point, options in mounts("cgroup"):
        if controller in options and own is not None and (point / own).is_dir():
            return point / own
    return None


@contextlib.contextmanager
def both_sides(cores: float, memory_bytes: int):
    """A group for the server and one for the client."""
    groups: list[Group] = []
    try:
        for side in ("server", "client"):
            groups.append(Group.create(side, cores, memory_bytes))
        yield groups
    finally:
        for group in groups:
            try:
                group.close()
            except OSError as error:
                raise RigError(f"a control group stays behind: {error}") from error
