"""Rows on a fast, clean network: two namespaces on one machine, a core for each side.

One row leaves the cores to the scheduler, and one gives each side half a core and little memory.
Two wires join them, one with an MTU of 1500 and one of 9000, so that rounds can alternate between
the two; over loopback both sides live in the server's namespace.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Callable, Iterator

from .cgroups import Group, NoGroups, both_sides
from .contenders import CONTENDERS, OURS
from .namespaces import Namespace, RigError, wire
from .offloads import active
from .processes import Sample, end_inhabitants
from .results import EntryResult, RowResult
from .rows import NO_LATENCY_CLIENT, Ends, Plan, describe, latency_client, list_during_put, original, served_directory, transfer
from .servers import Servers, Site
from .targets import BASELINE, as_baseline
from .workspace import MIB, size_of

SERVER_CORE, CLIENT_CORE = 0, 1
DEVICES = {"lan1500": 1500, "lan9000": 9000}
# The default of most systems; the host's may be another.
TCP_CONGESTION = "cubic"
TIMEOUT_S = 180.0
LIMITED_CORES, LIMITED_MEMORY, LIMITED_BYTES = 0.5, 256 * MIB, 256 * MIB


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contender on one of the wires."""

    contender: str
    wire: str
    title: str
    # Moves one file of the row's size in place of the tree.
    as_file: bool = False

    def of_baseline(self) -> Entry:
        return dataclasses.replace(self, contender=BASELINE, title=f"{self.title}, the other build")


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of work; its contenders by key."""

    key: str
    title: str
    operation: str
    kind: str  # "large", "small" or "tree"
    entries: dict[str, Entry]
    pinned: bool = True
    # Half a core and little memory for each side, and a file of its own size.
    limited: bool = False

    def bytes(self, plan: Plan) -> int:
        return min(plan.size, LIMITED_BYTES) if self.limited else plan.size


def on(wire_name: str, *names: str) -> dict[str, Entry]:
    return {name: Entry(name, wire_name, CONTENDERS[name].title) for name in names}


def against_own_file(*others: str) -> dict[str, Entry]:
    own = Entry(OURS, "1500", "quire, one file of the same size", as_file=True)
    return {**on("1500", OURS), f"{OURS}@file": own, **on("1500", *others)}


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
    Row("get-large-unpinned", "get one file of {mib} MiB over loopback, cores not pinned", "get", "large",
        on("loopback", OURS, "nginx", "scp-aes"), pinned=False),
    Row("get-limited", "get one file of {mib} MiB to disk, half a core and 256 MiB a side, MTU 1500", "get", "large",
        on("1500", OURS, "nginx", "scp-aes"), limited=True),
    Row("get-small", "get {files:,} files of 4 KiB, MTU 1500", "get", "small", on("1500", OURS, *MANY_FILES, "nginx")),
    Row("put-small", "put {files:,} files of 4 KiB, MTU 1500", "put", "small", on("1500", OURS, *MANY_FILES)),
    Row("get-tree", "get a tree of real files, MTU 1500", "get", "tree", against_own_file(*MANY_FILES, "nginx")),
    Row("put-tree", "put a tree of real files, MTU 1500", "put", "tree", against_own_file(*MANY_FILES)),
]
LATENCY_ROW = "list-during-put"
LATENCY_TITLE = "`list` while a put runs at full speed on the same connection, MTU 1500"
KEYS = [*(row.key for row in ROWS), LATENCY_ROW]


class Lan:
    """The two namespaces and their wires."""

    def __init__(self) -> None:
        self.client, self.server = Namespace.create(), Namespace.create()
        for index, (device, mtu) in enumerate(DEVICES.items(), 1):
            wire(self.client, self.server, device, f"10.91.{index}", mtu)
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
        site.offloads.update({device: active(rig.client, device) for device in DEVICES})
        for row in ROWS:
            if row.key in keys:
                run_row(site, plan, rig, row, done)
        if LATENCY_ROW in keys:
            run_latency_row(site, plan, rig, done)


def run_row(site: Site, plan: Plan, rig: Lan, row: Row, done: list[RowResult]) -> None:
    item = site.workspace.file(row.bytes(plan)) if row.kind == "large" else original(site, plan, row.kind)
    title = row.title.format(files=plan.small_files, mib=row.bytes(plan) // MIB)
    result = RowResult(row.key, title, size_of(item))
    done.append(result)
    entries = row.entries | {as_baseline(key): entry.of_baseline() for key, entry in row.entries.items()
                             if entry.contender == OURS}
    for key in plan.entries(row.entries):
        result.entries[key] = EntryResult(entries[key].title, CONTENDERS[entries[key].contender].missing(site))
    try:
        with limits(row) as (server_group, client_group):
            server_core, client_core = (SERVER_CORE, CLIENT_CORE) if row.pinned else (None, None)
            target = site.workspace.disk_out if row.limited else None
            with Servers(site, rig.server, server_core, served_directory(site, row.operation), server_group) as servers:
                def run_one(entry: Entry) -> Sample:
                    ends = dataclasses.replace(rig.ends[entry.wire], client_core=client_core, target=target,
                                               client_group=client_group)
                    moved = site.workspace.file(result.bytes) if entry.as_file else item
                    return run_entry(site, servers, ends, row, entry, moved)
                run_rounds(plan, entries, result, run_one)
            rig.end_processes()
    except NoGroups as error:
        result.skipped = str(error)
    finally:
        rig.end_processes()


@contextlib.contextmanager
def limits(row: Row) -> Iterator[list[Group | None]]:
    """The groups of server and client, if the row has limits."""
    if not row.limited:
        yield [None, None]
        return
    with both_sides(LIMITED_CORES, LIMITED_MEMORY) as groups:
        yield groups


def run_rounds(plan: Plan, entries: dict[str, Entry], result: RowResult,
               run_one: Callable[[Entry], Sample]) -> None:
    able = [key for key, entry in result.entries.items() if not entry.missing]
    for index in range(plan.rounds):
        # The order rotates, so no tool always runs first or always after the same one.
        shift = index % len(able) if able else 0
        for key in able[shift:] + able[:shift]:
            sample = run_one(entries[key])
            result.entries[key].samples.append(sample)
            plan.progress(f"{result.key} {index + 1}/{plan.rounds} {key}: {describe(sample)}")


def run_entry(site: Site, servers: Servers, ends: Ends, row: Row, entry: Entry, item: Path) -> Sample:
    try:
        return transfer(site, servers, ends, entry.contender, row.operation, item, TIMEOUT_S)
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
