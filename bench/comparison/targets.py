"""What quire sets out to reach: one table, and the only place where these figures stand.

`at_least` must hold, `try_for` is the aim beyond it (or nothing). For the measures in `LOWER`,
less is better and both are upper limits.
"""

from __future__ import annotations

import dataclasses

# Time of the other tool divided by ours in the same round, median.
RATIO = "ratio"
# Our processor time of both sides divided by the other's, medians.
CPU_RATIO = "cpu ratio"
CLIENT_PEAK = "client peak, MiB"
SERVER_PEAK = "server peak, MiB"
# Bits of the file per second of wall time, as a share of the link's rate.
SHARE = "share of the rate, %"
# Packets of ours that the full queue threw away, of those sent.
DROPS = "dropped at the queue, %"
# Median delay above the smallest, as a share of the round trip without load.
QUEUE = "standing queue, BDP"
# The same, less that of the other tool.
QUEUE_EXCESS = "standing queue above the other's, BDP"
ROUND_TRIPS = "round trips"
P99_MS = "p99, ms"
P99_ROUND_TRIPS = "p99, round trips"
# What one TCP CUBIC flow beside ours gets of what both get.
NEIGHBOUR = "the neighbour's share, %"
# What one TCP flow beside several of ours gets, as a share of what it would get if all got alike.
FAIR = "the neighbour's fair share, %"
# Jain's index of what several gets get.
ALIKE = "fairness among the gets, %"
# Runs that ended with an error before their time was over.
DEAD = "dead connections"

LOWER = {CPU_RATIO, CLIENT_PEAK, SERVER_PEAK, DROPS, QUEUE, QUEUE_EXCESS, DEAD, ROUND_TRIPS, P99_MS, P99_ROUND_TRIPS}

OURS, OUR_PUT = "quire", "quire@put"
# Another build of quire, which `--baseline` names.
BASELINE = "baseline"
# Of the time of that build, what a change may cost at most.
KEPT = 0.97

# What one side may hold for one large get, and the server's cache at its default size beside it.
MEMORY_MIB, CACHE_MIB = 64, 64


@dataclasses.dataclass(frozen=True)
class Target:
    """One line of the table."""

    row: str
    measure: str
    at_least: float
    try_for: float | None = None
    against: str | None = None
    # Our entry that the target is about.
    own: str = OURS

    def met(self, value: float, limit: float) -> bool:
        return value <= limit if self.measure in LOWER else value >= limit


def ratios(row: str, *limits: tuple, own: str = OURS) -> list[Target]:
    return [Target(row, RATIO, at_least, try_for, against, own) for against, at_least, try_for in limits]


def kept(rows: list) -> list[Target]:
    """That no row became slower than the other build, in either direction."""
    return [Target(row.key, RATIO, KEPT, None, other, own) for row in rows for own in (OURS, OUR_PUT)
            if row.bytes and (other := as_baseline(own)) in row.entries]


def as_baseline(entry: str) -> str:
    return entry.replace(OURS, BASELINE, 1)


def path_targets(row: str, share: float | None, share_try: float | None) -> list[Target]:
    rate = [] if share is None else [Target(row, SHARE, share, share_try)]
    return [*rate, Target(row, DROPS, 3, 1), Target(row, QUEUE, 0.5, 0.2)]


LAN_TARGETS = [
    *ratios("get-large", ("nginx", 1.0, 1.2), ("scp-aes", 1.15, 1.4), ("scp", 1.8, 2.5),
            ("rsync-daemon", 0.85, 1.0), ("qcp", 1.5, 2)),
    Target("get-large", CPU_RATIO, 1.3, 1.0, "nginx"),
    Target("get-large", CLIENT_PEAK, MEMORY_MIB),
    Target("get-large", SERVER_PEAK, MEMORY_MIB + CACHE_MIB),
    *ratios("put-large", ("scp-aes", 1.3, None), ("rsync-ssh", 2.0, None), ("qcp", 1.5, 2)),
    *ratios("get-large-mtu9000", ("quire@1500", 1.4, 2)),
    *ratios("put-large-mtu9000", ("quire@1500", 1.4, 2)),
    *ratios("get-large-unpinned", ("nginx", 1.0, None), ("scp-aes", 1.2, None)),
    *ratios("get-limited", ("scp-aes", 1.1, None), ("nginx", 0.9, None)),
    *ratios("get-small", ("rsync-daemon", 1.0, 1.5), ("rsync-ssh", 2, 4), ("scp-aes", 15, 30)),
    *ratios("put-small", ("rsync-daemon", 1.0, 1.5), ("rsync-ssh", 2, None), ("scp-aes", 15, None)),
    # The daemon, which encrypts nothing, is an aim only.
    *(target for row in ("get-tree", "put-tree") for target in ratios(
        row, ("rsync-daemon", 0, 0.8), ("rsync-ssh", 1.8, None), ("scp-aes", 3, None), ("quire@file", 0.9, None))),
    Target("list-during-put", P99_MS, 10),
]

# One, and the time that both ends and the emulated link need; a second one would make it 2.
ONE_ROUND_TRIP = 1.05

LOSSES = ("0.1", "0.5", "1")

WAN_TARGETS = [
    *(target for loss in LOSSES for target in ratios(
        f"get-24m-loss{loss}", ("nginx/cubic", 10, 20), ("scp-aes/cubic", 10, 20), ("nginx/bbr", 1.0, 1.5))),
    *(target for loss in LOSSES for target in path_targets(f"get-256m-loss{loss}", 85, 92)),
    *path_targets("get-1g-500mbit-200ms", 70, 85),
    *path_targets("get-1g-900mbit-20ms", 70, 85),
    *path_targets("get-100mbit-shallow", None, None),
    *ratios("get-48m-clean", ("nginx/bbr", 1.0, 1.2)),
    Target("small-get-warm", ROUND_TRIPS, ONE_ROUND_TRIP),
    Target("list-during-put-80ms", P99_ROUND_TRIPS, 2.5),
    Target("neighbour-tcp-first", NEIGHBOUR, 25, 40),
    Target("neighbour-quire-first", NEIGHBOUR, 25, 40),
]

# Real paths: no slower than the better of the two kinds of TCP, with either direction of ours.
HARD_PATHS = ("bursts-20", "bursts-10", "bursts-4", "late-25-10ms", "late-all-2ms", "late-25-1ms", "jitter-10ms",
              "jitter-20ms", "jitter-30ms", "outages-20ms", "reorder-5", "reorder-10")
TRACES = ("lte-driving", "5g-blockage", "3g-walking", "wifi-near", "wifi-far", "wifi-contended")
TCP = ("nginx/bbr", "nginx/cubic")
RANDOM_PATHS = "random-paths"
OURS_BOTH = (OURS, OUR_PUT)
NEIGHBOURS, FLOWS = ("cubic", "bbr"), (1, 4, 8)
# Two medians of a queue differ by as much without any reason.
QUEUE_NOISE_BDP = 0.05

PATH_TARGETS = [
    *(target for row in HARD_PATHS for own in OURS_BOTH for target in ratios(
        row, *((tcp, 0.95, 1.1) for tcp in TCP), own=own)),
    # What was reached before there was a target.
    Target("satellite", SHARE, 82.7),
    *(target for kind in TRACES for own in OURS_BOTH for target in (
        Target(f"trace-{kind}", RATIO, 0.95, 1.1, "nginx/bbr", own),
        Target(f"trace-{kind}", QUEUE_EXCESS, QUEUE_NOISE_BDP, 0, "nginx/bbr", own))),
    *(Target(row, measure, limit, None, None, own) for row in ("steps", "clean") for own in OURS_BOTH
      for measure, limit in ((DROPS, 1), (QUEUE, 0.2))),
    *(Target(RANDOM_PATHS, DEAD, 0, own=own) for own in OURS_BOTH),
    *(Target(f"beside-{flows}-{tcp}", FAIR, 50, 80) for tcp in NEIGHBOURS for flows in FLOWS),
]
