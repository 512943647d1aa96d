"""Rows on real paths: losses in bursts, jitter, reordering, outages, variable rates, a policer.

What is asked of a row is the rate of the better of TCP BBR and TCP CUBIC, for a get and for a put of
ours. A round is a seed, the same for every contender; a run is cut off at a minute and counts so.
"""

from __future__ import annotations

import random

from . import targets
from .contenders import CONTENDERS
from .links import Link, emulator, linklab
from .neighbour import NeighbourRow
from .processes import Sample
from .results import MIB, RowResult
from .rows import Plan, describe, entry_result
from .servers import Site
from .targets import OUR_PUT, OURS
from .wan import Row, run_once, run_rows

LIMIT_S = 60.0
BYTES, SATELLITE_BYTES = 20 * MIB, 128 * MIB
NO_LINKLAB = "linklab is not built (see README.md)"
ENTRIES = (OURS, OUR_PUT, *targets.TCP)
MEAN_LOSS = 0.02


def bursts(packets: int) -> tuple[tuple[str, ...], str]:
    """Gilbert losses of 2 % in the mean."""
    end = 1 / packets
    begin = end * MEAN_LOSS / (1 - MEAN_LOSS)
    return ("--burst-loss", "gilbert", f"{begin:.6f},{end:.6f}"), f"2 % lost in bursts of {packets}"


def spaced(time: str) -> str:
    return time.replace("ms", " ms")


def late(percent: int, delay: str) -> tuple[tuple[str, ...], str]:
    return ("--reorder", f"{percent}%", "--reorder-delay", delay), f"{percent} % of the packets {spaced(delay)} late"


def jitter(time: str) -> tuple[tuple[str, ...], str]:
    return ("--jitter", time), f"jitter up to {spaced(time)}, in order"


HARD = {
    "bursts-20": bursts(20),
    "bursts-10": bursts(10),
    "bursts-4": bursts(4),
    "late-25-10ms": late(25, "10ms"),
    "late-all-2ms": (("--jitter-reorder", "2ms"), "every packet up to 2 ms late"),
    "late-25-1ms": late(25, "1ms"),
    "jitter-10ms": jitter("10ms"),
    "jitter-20ms": jitter("20ms"),
    "jitter-30ms": jitter("30ms"),
    "outages-20ms": (("--outage", "20ms/1s"), "outages of 20 ms each second"),
    "reorder-5": late(5, "4ms"),
    "reorder-10": late(10, "4ms"),
    "duplicates-5": (("--duplicate", "5%"), "5 % of the packets twice"),
    "policer": (("--police", "50mbit,100k"), "policed to 50 Mbit/s with bursts of 100 kB"),
}


def hard(key: str) -> Row:
    options, words = HARD[key]
    return Row(key, BYTES, Link(100, 40, options=options, words=words), ENTRIES, LIMIT_S)


def on_trace(key: str, kind: str, mib: int, rtt_ms: float, queue_bdp: float, words: str) -> Row:
    # The rate is that of the trace's draw; the one here only estimates it.
    return Row(key, mib * MIB, Link(20, rtt_ms, queue_bdp=queue_bdp, trace=kind), ENTRIES, LIMIT_S, words)


ROWS = [
    *(hard(key) for key in HARD),
    Row("clean", BYTES, Link(100, 40), ENTRIES, LIMIT_S, "no losses, no jitter"),
    # Long enough that the start, of many round trips, is not the most of it.
    Row("satellite", SATELLITE_BYTES, Link(50, 300, 1), ENTRIES, LIMIT_S, "satellite: 50 Mbit/s, 300 ms, 1 % lost"),
    Row("asymmetric-20-1", BYTES, Link(20, 40, up_mbit=1), (OURS, *targets.TCP), LIMIT_S,
        "20 Mbit/s down, 1 Mbit/s up"),
    Row("asymmetric-5-1", BYTES // 2, Link(5, 40, up_mbit=1), (OURS, *targets.TCP), LIMIT_S,
        "5 Mbit/s down, 1 Mbit/s up"),
    on_trace("steps", "steps", 40, 40, 1, "100 and 25 Mbit/s in turn"),
    # Mobile networks have deep queues and Wi-Fi shorter ones.
    on_trace("trace-lte-driving", "lte-driving", 20, 50, 3, "LTE from a car"),
    on_trace("trace-5g-blockage", "5g-blockage", 40, 30, 3, "5G with obstacles"),
    on_trace("trace-3g-walking", "3g-walking", 8, 100, 3, "3G on foot"),
    on_trace("trace-wifi-near", "wifi-near", 40, 20, 2, "Wi-Fi, near"),
    on_trace("trace-wifi-far", "wifi-far", 16, 20, 2, "Wi-Fi, far"),
    on_trace("trace-wifi-contended", "wifi-contended", 30, 20, 2, "Wi-Fi, many stations"),
]
BESIDE = [NeighbourRow(f"beside-{gets}-{tcp}", Link(100, 40), tcp_first=True, gets=gets, tcp=tcp)
          for tcp in targets.NEIGHBOURS for gets in targets.FLOWS]
BESIDE += [NeighbourRow(f"alike-{gets}", Link(100, 40), tcp_first=False, gets=gets, tcp=None)
           for gets in targets.FLOWS if gets > 1]
KEYS = [row.key for row in (*ROWS, *BESIDE)]


def run(site: Site, plan: Plan, keys: list[str], done: list[RowResult]) -> None:
    if linklab() is None:
        done.extend(RowResult(key, key, skipped=NO_LINKLAB) for key in keys)
        return
    run_rows(site, plan, emulator(), (*ROWS, *BESIDE), keys, done)


def random_link(seed: int) -> Link:
    """A path with bursts, outages and jitter at random, of 5 to 100 Mbit/s and 10 to 200 ms."""
    dice = random.Random(seed)
    mean, length = dice.uniform(0, 0.05), dice.uniform(1, 50)
    end = 1 / length
    silence, period = dice.uniform(0.01, 2), dice.uniform(4, 20)
    chosen = {
        f"{100 * mean:.1f} % lost in bursts of {length:.0f}":
            ("--burst-loss", "gilbert", f"{end * mean / (1 - mean):.6f},{end:.6f}"),
        f"outages of {silence * 1e3:.0f} ms each {period:.1f} s":
            ("--outage", f"{silence * 1e3:.0f}ms/{period * 1e3:.0f}ms"),
        f"jitter of up to {(order := dice.uniform(0, 50)):.0f} ms, in order": ("--jitter", f"{order:.1f}ms"),
        f"reordering jitter of up to {(over := dice.uniform(0, 10)):.0f} ms": ("--jitter-reorder", f"{over:.1f}ms"),
    }
    words = dice.sample(list(chosen), dice.randint(1, len(chosen)))
    rate, rtt = round(5 * 20 ** dice.random()), round(10 * 20 ** dice.random())
    return Link(rate, rtt, queue_bdp=round(dice.uniform(0.3, 3), 1), words=", ".join(words),
                options=tuple(option for word in words for option in chosen[word]))


def run_failures(site: Site, plan: Plan, _keys: list[str], count: int, done: list[RowResult]) -> None:
    """Moves a file over paths drawn at random, a get and a put in turn, and counts what fails."""
    result = RowResult(targets.RANDOM_PATHS, f"{count} paths with bursts, outages and jitter at random")
    done.append(result)
    missing = CONTENDERS[OURS].missing(site)
    if linklab() is None or missing:
        result.skipped = missing or NO_LINKLAB
        return
    result.entries = {key: entry_result(site, key) for key in (OURS, OUR_PUT)}
    for seed in range(1, count + 1):
        link = random_link(seed)
        key = OURS if seed % 2 else OUR_PUT
        # Five seconds of the link's rate, in whole MiB so that few different files are made.
        item = site.workspace.file(max(1, round(link.rate_mbit * 5e6 / 8 / MIB)) * MIB)
        sample = run_random(site, link, key, item, seed)
        result.entries[key].samples.append(sample)
        plan.progress(f"{targets.RANDOM_PATHS} {seed}/{count} {key}: {describe(sample)}{'' if sample.error else f' ({link})'}")


def run_random(site: Site, link: Link, key: str, item, seed: int) -> Sample:
    row = Row(targets.RANDOM_PATHS, item.stat().st_size, link, (key,))
    sample = run_once(site, emulator(), row, key, item, seed)
    if sample.error:
        kind = "not done" if sample.timed_out else "dead"
        sample.error = f"{kind}, seed {seed}: {sample.error} ({link})"
    return sample
