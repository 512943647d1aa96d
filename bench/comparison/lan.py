"""Rows on a fast, clean network: two namespaces on one machine, a core for each side.

Two wires join them, one with an MTU of 1500 and one of 9000, so that rounds can alternate between
the two; over loopback both sides live in the server's namespace.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Iterator

from .contenders import CONTENDERS, OURS
from .namespaces import Namespace, RigError, wire
from .processes import Sample, end_inhabitants
from .results import EntryResult, RowResult
from .rows import NO_LATENCY_CLIENT, Ends, Plan, describe, latency_client, list_during_put, original, served_directory, transfer
from .servers import Servers, Site
from .workspace import MIB, size_of

SERVER_CORE, CLIENT_CORE = 0, 1
# The default of most systems; the host's may be another.
TCP_CONGESTION = "cubic"
TIMEOUT_S = 180.0


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contender on one of the wires."""

    contender: str
    wire: str
    title: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of work; its contenders by key."""

    key: str
    title: str
    operation: str
    kind: str  # "large", "small" or "tree"
    entries: dict[str, Entry]


def on(wire_name: str, *names: str) -> dict[str, Entry]:
    return {name: Entry(name, wire_name, CONTENDERS[name].title) for name in names}


def against_own_1500(*others: str) -> dict[str, Entry]:
    own = Entry(OURS, "1500", "quire at MTU 1500")
    return {**on("9000", OURS), f"{OURS}@1500": own, **on("9000", *others)}


SSH_TOOLS = ("scp-aes", "scp", "sftp", "rsync-daemon", "rsync-ssh", "tar-ssh", "rclone", "qcp")
WEB = ("nginx", "nginx-default", "caddy")
MANY_FILES = ("rsync-daemon", "rsync-ssh", "scp-aes", "tar-ssh", "rclone", "qcp")

ROWS = [
    Row("get-large", "get one file of {mib} MiB, page cache to tmpfs, MTU 1500", "get", "large",
        on("1500", OURS, *WEB, *SSH_TOOLS, "raw")),
    Row("put-large", "put one file of {mib} MiB, page cache to tmpfs, MTU 1500", "put", "large", on("1500", OURS, *SSH_TOOLS)),
    Row("get-large-mtu9000", "get one file of {mib} MiB, MTU 9000", "get", "large",
        against_own_1500("nginx", "scp-aes", "rsync-daemon", "qcp", "raw")),
    Row("put-large-mtu9000", "put one file of {mib} MiB, MTU 9000", "put", "large",
        against_own_1500("scp-aes", "rsync-daemon", "qcp")),
    Row("get-large-loopback", "get one file of {mib} MiB over loopback, MTU 65536", "get", "large",
        on("loopback", OURS, "nginx", "scp-aes", "rsync-daemon", "qcp", "raw")),
    Row("get-small", "get {files:,} files of 4 KiB, MTU 1500", "get", "small", on("1500", OURS, *MANY_FILES, "nginx")),
    Row("put-small", "put {files:,} files of 4 KiB, MTU 1500", "put", "small", on("1500", OURS, *MANY_FILES)),
    Row("get-tree", "get a tree of real files, MTU 1500", "get", "tree", on("1500", OURS, *MANY_FILES, "nginx")),
    Row("put-tree", "put a tree of real files, MTU 1500", "put", "tree", on("1500", OURS, *MANY_FILES)),
]
LATENCY_ROW = "list-during-put"
LATENCY_TITLE = "`list` while a put runs at full speed on the same connection, MTU 1500"
KEYS = [*(row.key for row in ROWS), LATENCY_ROW]


class Lan:
    """The two namespaces and their wires."""

    def __init__(self) -> None:
        self.client, self.server = Namespace.create(), Namespace.create()
        wire(self.client, self.server, "lan1500", "10.91.1", 1500)
        wire(self.client, self.server, "lan9000", "10.91.2", 9000)
        for namespace in (self.client, self.server):
            namespace.use_congestion_control(TCP_CONGESTION)
        self.ends = {
            "1500": Ends(self.client, "10.91.1.2", CLIENT_CORE),
            "9000": Ends(self.client, "10.91.2.2", CLIENT_CORE),
            "loopback": Ends(self.server, "127.0.0.1", CLIENT_CORE),
        }

    def end_processes(self) -> None:
        end_inhabitants(self.client)
        end_inhabitants(self.server)

    def close(self) -> None:
        self.end_processes()
        self.client.close()
        self.server.close()


@contextlib.contextmanager
def lan() -> Iterator[Lan]:
    rig = Lan()
    try:
        yield rig
    finally:
        rig.close()


def run(site: Site, plan: Plan, keys: list[str], done: list[RowResult]) -> None:
    """Runs the rows named by `keys`; results are added to `done` as they come."""
    with lan() as rig:
        for row in ROWS:
            if row.key in keys:
                run_row(site, plan, rig, row, done)
        if LATENCY_ROW in keys:
            run_latency_row(site, plan, rig, done)


def run_row(site: Site, plan: Plan, rig: Lan, row: Row, done: list[RowResult]) -> None:
    item = original(site, plan, row.kind)
    title = row.title.format(files=plan.small_files, mib=plan.size // MIB)
    result = RowResult(row.key, title, size_of(item))
    done.append(result)
    for key, entry in row.entries.items():
        if plan.wants(key):
            result.entries[key] = EntryResult(entry.title, CONTENDERS[entry.contender].missing(site))
    able = [key for key, entry in result.entries.items() if not entry.missing]
    try:
        with Servers(site, rig.server, SERVER_CORE, served_directory(site, row.operation)) as servers:
            for index in range(plan.rounds):
                # The order rotates, so no tool always runs first or always after the same one.
                shift = index % len(able) if able else 0
                for key in able[shift:] + able[:shift]:
                    sample = run_entry(site, servers, rig, row, row.entries[key], item)
                    result.entries[key].samples.append(sample)
                    plan.progress(f"{row.key} {index + 1}/{plan.rounds} {key}: {describe(sample)}")
    finally:
        rig.end_processes()


def run_entry(site: Site, servers: Servers, rig: Lan, row: Row, entry: Entry, item) -> Sample:
    try:
        return transfer(site, servers, rig.ends[entry.wire], entry.contender, row.operation, item, TIMEOUT_S)
    except RigError as error:
        return Sample(seconds=0, exit=None, error=str(error))


def run_latency_row(site: Site, plan: Plan, rig: Lan, done: list[RowResult]) -> None:
    result = RowResult(LATENCY_ROW, LATENCY_TITLE)
    done.append(result)
    missing = CONTENDERS[OURS].missing(site)
    if missing or latency_client(site) is None:
        result.skipped = missing or NO_LATENCY_CLIENT
        return
    item = original(site, plan, "large")
    entry = result.entries[OURS] = EntryResult("quire")
    try:
        with Servers(site, rig.server, SERVER_CORE, site.workspace.root) as servers:
            for _ in range(plan.rounds):
                try:
                    sample = list_during_put(site, servers, rig.ends["1500"], item, TIMEOUT_S)
                except RigError as error:
                    sample = Sample(seconds=0, exit=None, error=str(error))
                entry.samples.append(sample)
                plan.progress(f"{LATENCY_ROW}: {describe(entry.samples[-1])}")
    finally:
        rig.end_processes()
