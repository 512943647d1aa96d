"""Network namespaces, and the wires between them.

A namespace has no name: an open file of this process holds it, so it vanishes with the process
however that ends, and no other program's namespace can be met by accident. Entering one affects
only the calling thread; what that thread starts meanwhile is born inside.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from typing import Iterator

CLONE_NEWNET = 0x40000000
# The states of /proc/net/tcp and /proc/net/udp that mean "listening" and "bound".
LISTENING = {"tcp": "0A", "udp": "07"}
READY_POLL_S = 0.01

_libc = ctypes.CDLL(None, use_errno=True)


class RigError(Exception):
    """The rig itself could not be built; not a result of any tool."""


def _call(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise RigError(f"{what}: {os.strerror(error)}")


def _open_current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Namespace:
    """One network namespace, held by an open file."""

    def __init__(self, file: int) -> None:
        self.file = file

    @classmethod
    def create(cls) -> Namespace:
        home = _open_current()
        try:
            _call(_libc.unshare(CLONE_NEWNET), "unshare")
            namespace = cls(_open_current())
            _call(_libc.setns(home, CLONE_NEWNET), "setns")
        finally:
            os.close(home)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    @classmethod
    def current(cls) -> Namespace:
        return cls(_open_current())

    @classmethod
    def named(cls, name: str) -> Namespace:
        """One that another program made and will remove."""
        return cls(os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC))

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.file}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        home = _open_current()
        try:
            _call(_libc.setns(self.file, CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _call(_libc.setns(home, CLONE_NEWNET), "setns")
        finally:
            os.close(home)

    def ip(self, *arguments: str) -> str:
        return self.run("ip", *arguments)

    def run(self, *command: str) -> str:
        with self.inside():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RigError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def use_congestion_control(self, name: str) -> None:
        """Makes TCP in this namespace use `name`.

        By its routes: the setting of a namespace accepts only what the host allows to everybody.
        """
        for table, kinds in (("main", ""), ("local", "local ")):
            for route in self.run("ip", "-4", "route", "show", "table", table).splitlines():
                if route.startswith(kinds):
                    # A link that isn't up yet is shown, but isn't part of the route.
                    route = [word for word in route.split() if word not in ("linkdown", "dead")]
                    self.ip("route", "change", *route, "table", table, "congctl", name)

    def set(self, key: str, value: str) -> None:
        """Writes a `net.*` setting of this namespace."""
        with self.inside(), open("/proc/sys/" + key.replace(".", "/"), "w") as file:
            file.write(value)

    def wait_for_port(self, protocol: str, port: int, seconds: float, alive=lambda: True) -> bool:
        end = time.monotonic() + seconds
        while not self._has_port(protocol, port):
            if time.monotonic() > end or not alive():
                return False
            time.sleep(READY_POLL_S)
        return True

    def _has_port(self, protocol: str, port: int) -> bool:
        for table in (protocol, protocol + "6"):
            for line in self._table(table)[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == LISTENING[protocol]:
                    return True
        return False

    def _table(self, name: str) -> list[str]:
        try:
            with self.inside(), open(f"/proc/thread-self/net/{name}") as file:
                return file.readlines()
        except FileNotFoundError:
            return [""]

    def received_bytes(self, device: str) -> int:
        for line in self._table("dev"):
            name, _, counters = line.partition(":")
            if name.strip() == device:
                return int(counters.split()[0])
        raise RigError(f"no device {device}")

    def processes(self) -> list[int]:
        """Who is inside, this process excepted."""
        mine = os.fstat(self.file)
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                theirs = os.stat(f"/proc/{entry}/ns/net")
            except OSError:
                continue
            if (theirs.st_dev, theirs.st_ino) == (mine.st_dev, mine.st_ino):
                found.append(int(entry))
        return found

    def close(self) -> None:
        os.close(self.file)


def wire(near: Namespace, far: Namespace, name: str, network: str, mtu: int) -> None:
    """Joins two namespaces by a veth pair: `network`.1 near, `network`.2 far."""
    near.ip("link", "add", name, "mtu", str(mtu), "type", "veth", "peer", "name", name, "mtu", str(mtu),
            "netns", far.path)
    for namespace, host in ((near, 1), (far, 2)):
        namespace.ip("address", "add", f"{network}.{host}/24", "dev", name)
        namespace.ip("link", "set", name, "up")
