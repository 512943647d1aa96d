"""Long paths: a rate, a delay, random loss and a queue between two namespaces, and worse than that.

`linklab`, where it is built or on PATH, carries the packets itself and counts what the queue drops;
else the kernel's netem does it in a namespace between the two, where no packet is a segmented one
any more. Bursts, jitter, outages and traces need `linklab`.
The standing queue is measured from outside in both cases: the kernel of the far side answers an
ICMP echo every few milliseconds, and what it takes above the smallest is time spent in the queue.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Iterator

from .namespaces import Namespace, RigError, wire
from .processes import end_inhabitants, last_line, spawn

DEVICE = "wan0"
LINKLAB_SOURCE = Path(__file__).resolve().parent.parent / "linklab"
FULL_PACKET = 1500
LINK_READY_S = 10.0
# A smaller share of a round trip than this is no distortion of the path.
LATE_SHARE_MAX = 0.05
PROBE_INTERVAL_S = 0.02
IDLE_PROBES = 10
ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY = 8, 0


@dataclasses.dataclass(frozen=True)
class Link:
    """What a path is like."""

    rate_mbit: float
    rtt_ms: float
    loss_percent: float = 0.0
    queue_bdp: float = 1.0
    # From the client to the server, where it differs.
    up_mbit: float | None = None
    # The kind of a modelled trace, which takes the place of the rate.
    trace: str | None = None
    # What only linklab can do: its options, and the same in words.
    options: tuple[str, ...] = ()
    words: str = ""

    @property
    def bursts(self) -> bool:
        """Whether losses come in bursts of packets: every other packet then shortens a burst."""
        return "--burst-loss" in self.options

    @property
    def bdp_bytes(self) -> int:
        return int(self.rate_mbit * 1e6 / 8 * self.rtt_ms / 1e3)

    def ideal_seconds(self, count: int) -> float:
        return count * 8 / (self.rate_mbit * 1e6)

    def __str__(self) -> str:
        rate = self.trace or f"{self.rate_mbit:g}{f'/{self.up_mbit:g}' if self.up_mbit else ''} Mbit/s"
        loss = "" if self.words or self.trace else f", {self.loss_percent:g} % loss"
        return f"{rate}, {self.rtt_ms:g} ms{loss}, queue {self.queue_bdp:g} BDP{self.words and ', '}{self.words}"


def linklab() -> str | None:
    """The emulator: the build in this repository, else what is on PATH."""
    for build in (os.environ.get("CARGO_TARGET_DIR"), LINKLAB_SOURCE / "target"):
        if build and os.access(program := Path(build) / "release" / "linklab", os.X_OK):
            return str(program)
    return shutil.which("linklab")


def draw_trace(kind: str, seed: int, directory: Path) -> Path:
    """A modelled trace as a file, the same for every contender of a round."""
    file = directory / f"{kind}-{seed}.trace"
    done = subprocess.run([linklab(), "--seed", str(seed), "trace", kind, str(file)], capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        raise RigError(f"linklab trace {kind}: {done.stderr.strip()}")
    return file


def linklab_options(link: Link, seed: int, directory: Path) -> list[str]:
    rate = ["--trace", str(draw_trace(link.trace, seed, directory))] if link.trace else \
        ["--rate", f"{link.rate_mbit:g}mbit"]
    if link.up_mbit:
        rate += ["--rate-up", f"{link.up_mbit:g}mbit"]
    loss = ["--loss", f"{link.loss_percent:g}%"] if link.loss_percent else []
    return [*rate, "--rtt", f"{link.rtt_ms:g}ms", *loss, "--queue", f"{link.queue_bdp:g}bdp", "--seed", str(seed),
            *link.options]


class LinklabPath:
    """A link that a `linklab up` of ours carries until `close`."""

    host = "10.77.1.1"

    def __init__(self, link: Link, seed: int, logs: Path) -> None:
        name = f"qc{os.getpid()}"
        self._link, self._log = link, logs / "linklab.log"
        self._log.write_bytes(b"")
        command = [linklab(), "--name", name, *linklab_options(link, seed, logs), "up"]
        # Its own namespace is that of this program: it makes the two others itself.
        home = Namespace.current()
        self._process = spawn(command, home, None, self._log, dies_with_us=True)
        home.close()
        self._wait_until_up(name)
        self.client, self.server = Namespace.named(name + "client"), Namespace.named(name + "server")

    def _wait_until_up(self, name: str) -> None:
        end = time.monotonic() + LINK_READY_S
        while f"{name}client is" not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > end:
                self._stop()
                raise RigError(f"linklab: {last_line(self._log)}")
            time.sleep(0.01)

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(LINK_READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> dict:
        """Takes the link down; its counters."""
        for namespace in (self.client, self.server):
            end_inhabitants(namespace)
            namespace.close()
        self._stop()
        try:
            return json.loads(last_line(self._log))
        except ValueError:
            return {"error": last_line(self._log)}


class NetemPath:
    """A link in the kernel: a router between the two ends, with netem on both of its sides."""

    host = "10.77.1.1"

    def __init__(self, link: Link, _seed: int, _logs: Path) -> None:
        self.client, self.server, self._router = (Namespace.create() for _ in range(3))
        for end, name, network, far in ((self.client, "c", "10.77.0", "10.77.1.0/24"),
                                        (self.server, "s", "10.77.1", "10.77.0.0/24")):
            # The end takes host 1, the router host 2.
            wire(end, self._router, name, network, FULL_PACKET)
            end.ip("link", "set", "dev", name, "down")
            # Segments leave the end one by one, so that netem loses packets and not bundles.
            end.ip("link", "set", "dev", name, "name", DEVICE, "gso_max_segs", "1")
            end.ip("link", "set", "dev", DEVICE, "up")
            end.ip("route", "add", far, "via", f"{network}.2")
            self._router.run("tc", "qdisc", "add", "dev", name, "root", "netem", *netem_options(link))
        self._router.set("net.ipv4.ip_forward", "1")

    def close(self) -> dict:
        for namespace in (self.client, self.server, self._router):
            end_inhabitants(namespace)
            namespace.close()
        return {}


def netem_options(link: Link) -> list[str]:
    # netem's limit counts packets in flight in its delay as well as those that wait.
    packets = int(link.bdp_bytes * (link.queue_bdp + 0.5) / FULL_PACKET)
    return ["rate", f"{link.rate_mbit:g}mbit", "delay", f"{link.rtt_ms / 2:g}ms",
            *(["loss", f"{link.loss_percent:g}%"] if link.loss_percent else []), "limit", str(packets)]


def emulator() -> type | None:
    """What emulates links here, or nothing."""
    if linklab():
        return LinklabPath
    scratch = Namespace.create()
    try:
        scratch.run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
        return NetemPath
    except (RigError, FileNotFoundError):
        return None
    finally:
        scratch.close()


@contextlib.contextmanager
def path(kind: type, link: Link, seed: int, logs: Path, congestion: str | None, counters: dict) -> Iterator:
    """A link for one run; `counters` holds its own account afterwards."""
    opened = kind(link, seed, logs)
    try:
        if congestion:
            for namespace in (opened.client, opened.server):
                namespace.use_congestion_control(congestion)
        yield opened
    finally:
        counters.update(opened.close())


def doubt(link: Link, counters: dict) -> str | None:
    """Why a run over this link should not be trusted."""
    if "error" in counters:
        return f"linklab: {counters['error']}"
    for direction in ("up", "down"):
        counted = counters.get(direction, {})
        if any(counted.get(name) for name in ("device_dropped", "oversize", "write_errors")):
            return "the link dropped packets outside of its model"
        late = counted.get("late_us", {}).get("p99", 0) / 1e3
        if late > LATE_SHARE_MAX * link.rtt_ms:
            return f"the link was late: p99 {late:.1f} ms"
    return None


def dropped_percent(counters: dict, direction: str = "down") -> float | None:
    """Of the packets that the sender of the file sent, those that found the queue full or were policed."""
    counted = counters.get(direction)
    if not counted or not counted["sent"]:
        return None
    return 100 * (counted["queue_dropped"] + counted.get("policed", 0)) / counted["sent"]


def carried_mbit(link: Link, counters: dict, direction: str) -> float:
    """The rate of a direction, which for a trace is known once it is drawn."""
    return counters.get(direction, {}).get("rate_bits", link.rate_mbit * 1e6) / 1e6


class QueueProbe:
    """Measures the delay of a path from inside the client's namespace while something runs."""

    def __init__(self, client: Namespace, host: str, link: Link) -> None:
        self._rtt_s = link.rtt_ms / 1e3
        # On such a path the probes would help the tool out of its bursts.
        self._quiet = link.bursts
        with client.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.connect((host, 0))
        self._identity = os.getpid() & 0xFFFF
        self._sent: dict[int, float] = {}
        self._base = math.inf
        self._delays: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> QueueProbe:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._stop.set()
        if not self._quiet:
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        sequence, due = 0, time.monotonic()
        while not self._stop.is_set():
            if time.monotonic() >= due:
                self._send(sequence)
                sequence, due = sequence + 1, time.monotonic() + PROBE_INTERVAL_S
            ready, _, _ = select.select([self._socket], [], [], max(0.0, due - time.monotonic()))
            if ready:
                self._receive()

    def _send(self, sequence: int) -> None:
        head = struct.pack("!BBHHH", ICMP_ECHO_REQUEST, 0, 0, self._identity, sequence & 0xFFFF)
        packet = struct.pack("!BBHHH", ICMP_ECHO_REQUEST, 0, checksum(head), self._identity, sequence & 0xFFFF)
        self._sent[sequence & 0xFFFF] = time.monotonic()
        with contextlib.suppress(OSError):
            self._socket.send(packet)

    def _receive(self) -> None:
        now, packet = time.monotonic(), self._socket.recv(FULL_PACKET)
        kind, _, _, identity, sequence = struct.unpack_from("!BBHHH", packet, (packet[0] & 0xF) * 4)
        if kind == ICMP_ECHO_REPLY and identity == self._identity and sequence in self._sent:
            self._delays.append(now - self._sent.pop(sequence))

    def begin(self) -> None:
        """Learns the delay of the idle path; what is measured counts from here."""
        if self._quiet:
            return
        time.sleep(IDLE_PROBES * PROBE_INTERVAL_S + 2 * self._rtt_s)
        self._base = min(self._delays, default=math.inf)
        self._delays.clear()

    def standing_bdp(self) -> float | None:
        """Median delay above the smallest, in round trips without load."""
        if not self._delays:
            return None
        return (statistics.median(self._delays) - min(self._base, *self._delays)) / self._rtt_s


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
