"""One TCP flow beside large gets on the same link, or several gets alone: who gets what share.

The TCP flow is two threads of this program, each with a socket born in its end's namespace. Its
share is its own bytes, with their headers, of all that arrived at the client's device meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import targets
from .contenders import CONTENDERS, OURS, Job
from .links import DEVICE, Link, doubt, path
from .namespaces import RigError
from .processes import Sample, end_process, last_line, spawn
from .results import MIB, RowResult
from .rows import Plan, describe, entry_result
from .servers import Servers, Site

DURATION_S, COUNTED_S, SECOND_STARTS_S = 30.0, 20.0, 5.0
PORT = 9100
PIECE = 1 << 18
# Full segments: 1448 bytes of data with timestamps in an IP packet of 1500.
WIRE_PER_DATA = 1500 / 1448
# More than the link carries while it is watched, so that the get can't end before; of several gets
# each has a part of that.
GET_BYTES, SEVERAL_GET_BYTES = 512 * MIB, 192 * MIB
# The reference beside ours: what another model-based flow leaves to the same neighbour.
ENTRIES = (OURS, "nginx/bbr")


@dataclasses.dataclass(frozen=True)
class NeighbourRow:
    """Which starts first, on what link; how many gets, and which TCP."""

    key: str
    link: Link
    tcp_first: bool
    gets: int = 1
    # Without one the gets are among themselves.
    tcp: str | None = "cubic"

    @property
    def title(self) -> str:
        gets = "a get" if self.gets == 1 else f"{self.gets} gets"
        if self.tcp is None:
            return f"{gets} at once, {self.link}"
        first = "TCP" if self.tcp_first else gets
        return f"one TCP {self.tcp.upper()} flow beside {gets}, {first} first, {self.link}"

    @property
    def label(self) -> str:
        gets = "one get" if self.gets == 1 else f"{self.gets} gets"
        if self.tcp is None:
            return f"{gets} at once"
        return f"TCP {self.tcp.upper()} beside {gets}{'' if self.tcp_first else ', which began first'}"

    @property
    def get_bytes(self) -> int:
        return GET_BYTES if self.gets == 1 else SEVERAL_GET_BYTES


class TcpFlow:
    """A sender and a receiver that counts."""

    def __init__(self, opened, congestion: str) -> None:
        self._congestion = congestion.encode()
        with opened.server.inside():
            self._listener = socket.create_server(("0.0.0.0", PORT))
        with opened.client.inside():
            self._receiver = socket.socket()
        self._address = (opened.host, PORT)
        self._sender: socket.socket | None = None
        self.received = 0

    def start(self) -> None:
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self._congestion)
        self._receiver.connect(self._address)
        self._sender, _ = self._listener.accept()
        for work in (self._send, self._receive):
            threading.Thread(target=work, daemon=True).start()

    def _send(self) -> None:
        piece = bytes(PIECE)
        with contextlib.suppress(OSError):
            while True:
                self._sender.sendall(piece)

    def _receive(self) -> None:
        piece = bytearray(PIECE)
        with contextlib.suppress(OSError):
            while count := self._receiver.recv_into(piece):
                self.received += count

    def close(self) -> None:
        for end in (self._sender, self._receiver, self._listener):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


def run_neighbour_row(site: Site, plan: Plan, kind: type, row: NeighbourRow, done: list[RowResult]) -> None:
    result = RowResult(row.key, row.title, label=row.label)
    done.append(result)
    item = site.workspace.file(row.get_bytes)
    result.entries = {key: entry_result(site, key) for key in plan.entries(ENTRIES)}
    for index in range(plan.rounds):
        for key, entry in result.entries.items():
            if entry.missing:
                continue
            sample = run_once(site, kind, row, key, item, index + 1)
            entry.samples.append(sample)
            plan.progress(f"{row.key} {index + 1}/{plan.rounds} {key}: {describe(sample)}")


def run_once(site: Site, kind: type, row: NeighbourRow, key: str, item: Path, seed: int) -> Sample:
    name, _, congestion = key.partition("/")
    counters: dict = {}
    sample = Sample(seconds=COUNTED_S, exit=None)
    try:
        with path(kind, row.link, seed, site.workspace.logs, congestion or None, counters) as opened, \
                Servers(site, opened.server, None, site.workspace.data) as servers:
            servers.pid(CONTENDERS[name].server)
            sample.figures = shares(site, opened, row, name, item)
    except (RigError, OSError) as error:
        sample.error = str(error)
    finally:
        site.workspace.clear(site.workspace.memory, "out")
        site.workspace.out.mkdir()
    sample.link, sample.note = counters, doubt(row.link, counters)
    return sample


def shares(site: Site, opened, row: NeighbourRow, name: str, item: Path) -> dict[str, float]:
    """What the neighbour got of all that arrived in the counted time, and how alike the gets were."""
    begin, processes = time.monotonic(), []
    flow = TcpFlow(opened, row.tcp) if row.tcp else None
    log = site.workspace.logs / f"client-{name}.log"
    try:
        if flow and row.tcp_first:
            flow.start()
            wait_until(begin + SECOND_STARTS_S)
        log.write_bytes(b"")
        for number in range(row.gets):
            target = site.workspace.out / str(number)
            target.mkdir()
            job = Job("get", item, site.workspace.data, target, opened.host)
            processes.append(spawn(CONTENDERS[name].command(site, job), opened.client, None, log))
        if flow and not row.tcp_first:
            wait_until(begin + SECOND_STARTS_S)
            flow.start()
        wait_until(begin + DURATION_S - COUNTED_S)
        before = arrived(opened, flow, processes)
        wait_until(begin + DURATION_S)
        if any(process.poll() is not None for process in processes):
            raise RigError(f"a get ended early: {last_line(log)}")
        everything, tcp, *gets = (b - a for a, b in zip(before, arrived(opened, flow, processes)))
    finally:
        if flow:
            flow.close()
        for process in processes:
            end_process(process)
    percent = 100 * tcp * WIRE_PER_DATA / everything
    found = {targets.NEIGHBOUR: percent, targets.FAIR: percent * (row.gets + 1)} if flow else {}
    return found | ({targets.ALIKE: 100 * jain(gets)} if row.gets > 1 else {})


def arrived(opened, flow: TcpFlow | None, processes: list[subprocess.Popen]) -> list[int]:
    """Bytes so far: at the client's device, of the TCP flow, and what each get has written."""
    return [opened.client.received_bytes(DEVICE), flow.received if flow else 0,
            *(written_bytes(process.pid) for process in processes)]


def written_bytes(pid: int) -> int:
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["wchar"])


def jain(amounts: list[int]) -> float:
    """Jain's index of fairness: 1 if all got alike, 1/n if one got all."""
    squares = len(amounts) * sum(amount * amount for amount in amounts)
    return sum(amounts) ** 2 / squares if squares else 0.0


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
