"""Starting, measuring and ending processes.

Every process is started in a session of its own, on a core and in a namespace of the caller's
choice. Time is the wall time from just before the start to the end, as a user sees it. Processor
time of the client comes from `wait4`, that of the server from `/proc` before and after, over its
whole tree. Peak memory is the sum of `VmHWM` over the tree, sampled while the client runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from .cgroups import Group
from .namespaces import Namespace

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# How often memory is looked at: often at first, so that short runs are seen, then rarely, so that
# looking costs nothing on a machine of two cores.
SAMPLE_FIRST_S = 0.01
SAMPLE_LATER_S = 0.1
SAMPLES_FIRST = 20
# A server's helper for one connection gets this long to end before its processor time is read.
SETTLE_S = 0.5
GRACE_S = 3.0


@dataclasses.dataclass
class Sample:
    """One run of one contender."""

    seconds: float
    exit: int | None
    timed_out: bool = False
    client_cpu: float = 0.0
    server_cpu: float = 0.0
    client_peak_mib: float = 0.0
    server_peak_mib: float = 0.0
    error: str | None = None
    # What a row measures beyond time: by name, see `targets.py`.
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    # The link's own counters, and why they may not be trusted.
    link: dict = dataclasses.field(default_factory=dict)
    note: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def spawn(argv: list[str], namespace: Namespace, core: int | None, log: Path, *,
          environment: dict[str, str] | None = None, dies_with_us: bool = False,
          group: Group | None = None) -> subprocess.Popen:
    if group is not None:
        argv = group.command(argv)
    if dies_with_us:
        # Also when this program is killed outright, which no handler sees.
        argv = ["setpriv", "--pdeathsig", "TERM", *argv]
    cores = os.sched_getaffinity(0)
    with open(log, "ab") as output, namespace.inside():
        try:
            if core is not None:
                os.sched_setaffinity(0, {core})
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                    env={**os.environ, **(environment or {})}, start_new_session=True)
        finally:
            os.sched_setaffinity(0, cores)


def tree(root: int) -> list[int]:
    """A process and all its living descendants."""
    found = [root]
    for pid in found:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    found.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of a tree, with that of descendants that were waited for."""
    ticks = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_PER_SECOND


def peak_mib(root: int) -> float:
    """Sum of the largest resident sizes so far of a tree's living processes."""
    kib = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/status") as file:
                kib += next((int(line.split()[1]) for line in file if line.startswith("VmHWM")), 0)
        except OSError:
            continue
    return kib / 1024


def reset_peak(root: int) -> None:
    for pid in tree(root):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")


class PeakSampler:
    """Watches the memory of both sides from a thread of its own."""

    def __init__(self, roots: dict[str, int]) -> None:
        self.peaks = dict.fromkeys(roots, 0.0)
        self._roots = roots
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakSampler:
        self._thread.start()
        return self

    def __exit__(self, *_exception) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        count = 0
        while not self._stop.wait(SAMPLE_FIRST_S if count < SAMPLES_FIRST else SAMPLE_LATER_S):
            count += 1
            for side, root in self._roots.items():
                self.peaks[side] = max(self.peaks[side], peak_mib(root))


def measure(argv: list[str], *, namespace: Namespace, core: int | None, server: int, timeout: float,
            log: Path, group: Group | None = None) -> Sample:
    """Runs a client to its end against the server whose process is `server`."""
    resident = set(tree(server))
    reset_peak(server)
    log.write_bytes(b"")
    server_before = cpu_seconds(server)
    expired = threading.Event()
    begin = time.monotonic()
    child = spawn(argv, namespace, core, log, group=group)
    timer = threading.Timer(timeout, lambda: (expired.set(), end_group(child.pid, signal.SIGKILL)))
    try:
        timer.start()
        with PeakSampler({"client": child.pid, "server": server}) as sampler:
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.monotonic() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        timer.cancel()
        if child.returncode is None:
            end_process(child)
    settle(server, resident)
    return Sample(seconds=seconds, exit=child.returncode, timed_out=expired.is_set(),
                  client_cpu=usage.ru_utime + usage.ru_stime,
                  server_cpu=cpu_seconds(server) - server_before,
                  client_peak_mib=sampler.peaks["client"], server_peak_mib=sampler.peaks["server"],
                  error=failure(child.returncode, expired.is_set(), timeout, log))


def failure(exit_code: int, expired: bool, timeout: float, log: Path) -> str | None:
    if expired:
        return f"not done after {timeout:.0f} s"
    if exit_code == 0:
        return None
    return f"exit {exit_code}: {last_line(log)}"


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"


def settle(server: int, resident: set[int]) -> None:
    end = time.monotonic() + SETTLE_S
    while set(tree(server)) - resident and time.monotonic() < end:
        time.sleep(0.01)


def end_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def end_process(process: subprocess.Popen) -> None:
    """Ends a process and its group, politely first; `end_inhabitants` finds who left the group."""
    if process.poll() is None:
        end_group(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            end_group(process.pid, signal.SIGKILL)
            process.wait()


def end_inhabitants(namespace: Namespace) -> None:
    """Ends whatever is left inside a namespace that this program made."""
    for pid in namespace.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
