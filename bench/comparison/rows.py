"""What all rows share: how one contender's run is prepared, measured and checked."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Callable, Iterable

from . import targets
from .cgroups import Group
from .contenders import CONTENDERS, OURS, Job
from .namespaces import Namespace, RigError
from .processes import Sample, measure
from .results import EntryResult
from .servers import QUIRE_PORT, Servers, Site
from .targets import BASELINE, as_baseline
from .workspace import TREE_BYTES_MAX, difference, size_of, warm, warm_memory

# A client that holds one connection open and times requests on it; `README.md` says how it is called.
LATENCY_CLIENT = "examples/latency"
NO_LATENCY_CLIENT = f"{LATENCY_CLIENT} is not built"
PERCENTILE = 0.99


@dataclasses.dataclass
class Plan:
    """What the user asked for."""

    rounds: int
    quick: bool
    size: int
    small_files: int
    tree_sources: list[Path]
    tree_bytes_max: int = TREE_BYTES_MAX
    tools: re.Pattern = re.compile("")
    # Whether another build of quire takes part, in every row beside ours.
    baseline: bool = False
    progress: Callable[[str], None] = print

    def wants(self, entry: str) -> bool:
        """Whether this contender takes part; ours always does."""
        return entry.partition("@")[0] in (OURS, BASELINE) or bool(self.tools.search(entry))

    def entries(self, row: Iterable[str]) -> list[str]:
        """Those of a row that take part, each of ours with that of the other build behind it."""
        found = []
        for key in filter(self.wants, row):
            found.append(key)
            if self.baseline and entry_parts(key)[0] == OURS:
                found.append(as_baseline(key))
        return found


@dataclasses.dataclass(frozen=True)
class Ends:
    """Where the two sides of a run live."""

    client: Namespace
    host: str
    client_core: int | None
    # Where a get puts what it gets, if not on tmpfs.
    target: Path | None = None
    client_group: Group | None = None


def served_directory(site: Site, operation: str) -> Path:
    return site.workspace.data if operation == "get" else site.workspace.root


def transfer(site: Site, servers: Servers, ends: Ends, name: str, operation: str, item: Path,
             timeout: float) -> Sample:
    """One run of one contender, on empty ground, with what arrived compared to the original."""
    workspace, contender = site.workspace, CONTENDERS[name]
    target = ends.target or workspace.out
    arrival = target if operation == "get" else workspace.root
    workspace.clear(arrival, item.name)
    warm(item)
    warm_memory(workspace.memory, size_of(item))
    job = Job(operation, item, served_directory(site, operation), target, ends.host)
    log = workspace.logs / f"client-{name}.log"
    sample = measure(contender.command(site, job), namespace=ends.client, core=ends.client_core,
                     server=servers.pid(contender.server), timeout=timeout, log=log,
                     group=ends.client_group)
    if sample.ok:
        sample.error = difference(item, arrival / item.name)
    workspace.clear(arrival, item.name)
    return sample


def describe(sample: Sample) -> str:
    return f"{sample.seconds:.2f} s" if sample.ok else f"FAILED: {sample.error}"


def latency_client(site: Site) -> str | None:
    path = site.binaries / LATENCY_CLIENT
    return str(path) if os.access(path, os.X_OK) else None


def latency(site: Site, servers: Servers, ends: Ends, arguments: list[str], timeout: float) -> tuple[Sample, list[float]]:
    """Runs the latency client; its last line of output holds `samples_ms`."""
    log = site.workspace.logs / "client-latency.log"
    command = [latency_client(site), "--state-dir", str(site.state / "quire"), *arguments]
    sample = measure(command, namespace=ends.client, core=ends.client_core, server=servers.pid("quire"),
                     timeout=timeout, log=log)
    if not sample.ok:
        return sample, []
    try:
        return sample, sorted(json.loads(log.read_text().splitlines()[-1])["samples_ms"])
    except (ValueError, KeyError, IndexError) as error:
        raise RigError(f"{LATENCY_CLIENT}: unexpected output: {error}") from error


def list_during_put(site: Site, servers: Servers, ends: Ends, item: Path, timeout: float) -> Sample:
    arguments = ["list-during-put", f"{ends.host}:{QUIRE_PORT}/", str(item)]
    sample, times = latency(site, servers, ends, arguments, timeout)
    site.workspace.clear(site.workspace.root, item.name)
    if times:
        sample.figures[targets.P99_MS] = times[min(len(times) - 1, int(len(times) * PERCENTILE))]
    return sample


def congestion_available(name: str) -> bool:
    return name in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


def entry_parts(key: str) -> tuple[str, str, str]:
    """Contender, operation and congestion control of an entry `contender[@operation][/congestion]`."""
    work, _, congestion = key.partition("/")
    name, _, operation = work.partition("@")
    return name, operation or "get", congestion


def entry_result(site: Site, key: str) -> EntryResult:
    name, operation, congestion = entry_parts(key)
    contender = CONTENDERS[name]
    missing = contender.missing(site)
    if congestion and not congestion_available(congestion):
        missing = f"the kernel has no TCP {congestion.upper()}"
    title = contender.title + (f" {operation}" if "@" in key else "")
    return EntryResult(title + (f", TCP {congestion.upper()}" if congestion else ""), missing)


def original(site: Site, plan: Plan, kind: str) -> Path:
    if kind == "small":
        return site.workspace.small_files(plan.small_files)
    if kind == "tree":
        return site.workspace.real_tree(plan.tree_sources, plan.tree_bytes_max)
    return site.workspace.file(plan.size)

