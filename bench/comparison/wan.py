"""Rows on long paths, each run over an emulated link of its own.

Nothing is pinned to a core here: the link is the limit, and the emulator needs a core as well.
Every contender of a round meets the same seed of losses.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Iterable

from . import targets
from .contenders import CONTENDERS, OURS
from .links import Link, QueueProbe, carried_mbit, doubt, dropped_percent, emulator, path
from .namespaces import RigError
from .neighbour import NeighbourRow, run_neighbour_row
from .processes import Sample
from .results import MIB, EntryResult, RowResult
from .rows import (NO_LATENCY_CLIENT, Ends, Plan, describe, entry_parts, entry_result, latency, latency_client,
                   list_during_put, served_directory, transfer)
from .servers import QUIRE_PORT, Servers, Site

# A run may take this much longer than the link's rate alone would; TCP CUBIC with 1 % loss needs
# a hundred times the ideal.
PATIENCE = 150.0
PATIENCE_MIN_S, PATIENCE_MAX_S = 60.0, 300.0
LATENCY_TIMEOUT_S = 120.0
NO_EMULATOR = "neither linklab (see README.md) nor netem in this kernel"
SMALL_GET_BYTES = 4096
PUT_BYTES = 64 * MIB
QUICK_BYTES_MAX = 64 * MIB


@dataclasses.dataclass(frozen=True)
class Row:
    """One file over one link; for the entries see `entry_parts`."""

    key: str
    bytes: int
    link: Link
    entries: tuple[str, ...]
    limit_s: float | None = None
    words: str = ""

    def title(self, count: int) -> str:
        work = "move" if any("@" in key for key in self.entries) else "get"
        return f"{work} {count // MIB} MiB over {self.link}"

    def label(self, count: int) -> str:
        return self.words or self.link.words or f"{count // MIB} MiB, {self.link}"

    def timeout(self, count: int) -> float:
        ideal = self.link.ideal_seconds(count)
        return self.limit_s or min(PATIENCE_MAX_S, max(PATIENCE_MIN_S, PATIENCE * ideal))


AGAINST_TCP = (OURS, "nginx/cubic", "scp-aes/cubic", "nginx/bbr")
ROWS = [
    *(Row(f"get-24m-loss{loss}", 24 * MIB, Link(200, 80, float(loss)), AGAINST_TCP) for loss in targets.LOSSES),
    *(Row(f"get-256m-loss{loss}", 256 * MIB, Link(200, 80, float(loss)), (OURS, "nginx/bbr"))
      for loss in targets.LOSSES),
    Row("get-1g-500mbit-200ms", 1024 * MIB, Link(500, 200, 2), (OURS,)),
    Row("get-1g-900mbit-20ms", 1024 * MIB, Link(900, 20, 0.01), (OURS, "nginx/cubic", "nginx/bbr")),
    Row("get-100mbit-shallow", 128 * MIB, Link(100, 40, 0, 0.3), (OURS, "nginx/cubic", "nginx/bbr")),
    Row("get-48m-clean", 48 * MIB, Link(200, 80), AGAINST_TCP),
]
NEIGHBOURS = [
    NeighbourRow("neighbour-tcp-first", Link(100, 40), tcp_first=True),
    NeighbourRow("neighbour-quire-first", Link(100, 40), tcp_first=False),
]
LATENCY_LINK = Link(200, 80)
SMALL_GET, LIST_DURING_PUT = "small-get-warm", "list-during-put-80ms"
LATENCY_TITLES = {
    SMALL_GET: f"small gets on a warm connection, {LATENCY_LINK}",
    LIST_DURING_PUT: f"`list` while a put runs at full speed on the same connection, {LATENCY_LINK}",
}
KEYS = [*(row.key for row in ROWS), *(row.key for row in NEIGHBOURS), *LATENCY_TITLES]


def run(site: Site, plan: Plan, keys: list[str], done: list[RowResult]) -> None:
    kind = emulator()
    if kind is None:
        for key in keys:
            done.append(RowResult(key, key, skipped=NO_EMULATOR))
        return
    run_rows(site, plan, kind, (*ROWS, *NEIGHBOURS), keys, done)
    for key in LATENCY_TITLES:
        if key in keys:
            run_latency_row(site, plan, kind, key, done)


def run_rows(site: Site, plan: Plan, kind: type, rows: Iterable[Row | NeighbourRow], keys: list[str],
             done: list[RowResult]) -> None:
    for row in rows:
        if row.key in keys:
            run_one = run_row if isinstance(row, Row) else run_neighbour_row
            run_one(site, plan, kind, row, done)


def row_bytes(plan: Plan, row: Row) -> int:
    return min(row.bytes, QUICK_BYTES_MAX) if plan.quick else row.bytes


def run_row(site: Site, plan: Plan, kind: type, row: Row, done: list[RowResult]) -> None:
    item = site.workspace.file(row_bytes(plan, row))
    count = item.stat().st_size
    result = RowResult(row.key, row.title(count), count, row.label(count))
    done.append(result)
    result.entries = {key: entry_result(site, key) for key in plan.entries(row.entries)}
    for index in range(plan.rounds):
        for key, entry in result.entries.items():
            if entry.missing:
                continue
            sample = run_once(site, kind, row, key, item, index + 1)
            entry.samples.append(sample)
            plan.progress(f"{row.key} {index + 1}/{plan.rounds} {key}: {describe(sample)}")


def run_once(site: Site, kind: type, row: Row, key: str, item: Path, seed: int) -> Sample:
    """One contender over a fresh link."""
    name, operation, congestion = entry_parts(key)
    count, counters = item.stat().st_size, {}
    direction = "down" if operation == "get" else "up"
    try:
        with path(kind, row.link, seed, site.workspace.logs, congestion or None, counters) as opened, \
                Servers(site, opened.server, None, served_directory(site, operation)) as servers, \
                QueueProbe(opened.client, opened.host, row.link) as probe:
            servers.pid(CONTENDERS[name].server)
            probe.begin()
            sample = transfer(site, servers, Ends(opened.client, opened.host, None), name, operation, item,
                              row.timeout(count))
            standing = probe.standing_bdp()
    except RigError as error:
        return Sample(seconds=0, exit=None, error=str(error))
    rate = carried_mbit(row.link, counters, direction)
    figures = {targets.SHARE: 100 * count * 8 / 1e6 / rate / sample.seconds,
               targets.DROPS: dropped_percent(counters, direction), targets.QUEUE: standing}
    sample.figures = {name: value for name, value in figures.items() if value is not None}
    sample.link, sample.note = counters, doubt(row.link, counters)
    return sample


def run_failures(site: Site, plan: Plan, keys: list[str], count: int, done: list[RowResult]) -> None:
    """Repeats quire alone on every lossy row, each time with other losses."""
    kind = emulator()
    lossy = [row for row in ROWS if row.key in keys and row.link.loss_percent]
    for row in lossy:
        result = RowResult(f"failures-{row.key}", f"{count} repetitions: {row.title(row_bytes(plan, row))}")
        done.append(result)
        missing = CONTENDERS[OURS].missing(site)
        if kind is None or missing:
            result.skipped = missing or NO_EMULATOR
            continue
        item = site.workspace.file(row_bytes(plan, row))
        result.bytes = item.stat().st_size
        entry = result.entries[OURS] = EntryResult(CONTENDERS[OURS].title)
        for seed in range(1, count + 1):
            entry.samples.append(run_once(site, kind, row, OURS, item, seed))
            plan.progress(f"{result.key} {seed}/{count}: {describe(entry.samples[-1])}")


def run_latency_row(site: Site, plan: Plan, kind: type, key: str, done: list[RowResult]) -> None:
    result = RowResult(key, LATENCY_TITLES[key])
    done.append(result)
    missing = CONTENDERS[OURS].missing(site)
    if missing or latency_client(site) is None:
        result.skipped = missing or NO_LATENCY_CLIENT
        return
    entry = result.entries[OURS] = EntryResult(CONTENDERS[OURS].title)
    for index in range(plan.rounds):
        sample = latency_once(site, kind, key, index + 1)
        entry.samples.append(sample)
        plan.progress(f"{key} {index + 1}/{plan.rounds}: {describe(sample)}")


def latency_once(site: Site, kind: type, key: str, seed: int) -> Sample:
    small = site.workspace.file(SMALL_GET_BYTES)
    root = site.workspace.data if key == SMALL_GET else site.workspace.root
    counters: dict = {}
    try:
        with path(kind, LATENCY_LINK, seed, site.workspace.logs, None, counters) as opened, \
                Servers(site, opened.server, None, root) as servers:
            ends = Ends(opened.client, opened.host, None)
            if key == LIST_DURING_PUT:
                sample = list_during_put(site, servers, ends, site.workspace.file(PUT_BYTES), LATENCY_TIMEOUT_S)
                if targets.P99_MS in sample.figures:
                    sample.figures[targets.P99_ROUND_TRIPS] = sample.figures[targets.P99_MS] / LATENCY_LINK.rtt_ms
            else:
                arguments = ["small-get", f"{opened.host}:{QUIRE_PORT}/{small.name}"]
                sample, times = latency(site, servers, ends, arguments, LATENCY_TIMEOUT_S)
                if times:
                    sample.figures[targets.ROUND_TRIPS] = times[len(times) // 2] / LATENCY_LINK.rtt_ms
    except RigError as error:
        return Sample(seconds=0, exit=None, error=str(error))
    sample.link, sample.note = counters, doubt(LATENCY_LINK, counters)
    return sample
