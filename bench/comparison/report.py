"""Results as Markdown for people and as JSON for everything else."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

from . import targets
from .contenders import CONTENDERS, OURS
from .offloads import TELLING
from .results import GIB, MIB, EntryResult, RowResult, verdict
from .servers import Site
from .targets import Target

VERSIONS = {
    "quire": ["--version"], "quire-server": ["--version"], "nginx": ["-v"], "curl": ["--version"], "ssh": ["-V"],
    "rsync": ["--version"], "rclone": ["version"], "caddy": ["version"], "qcp": ["--version"], "tar": ["--version"],
    "linklab": ["--version"], "ip": ["-V"],
}
KERNEL_SETTINGS = ("net/core/rmem_max", "net/core/wmem_max", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem")


def machine() -> dict:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {"processor": model, "cores": os.cpu_count(), "kernel": platform.release(),
            "memory_gib": round(memory_kib / (1 << 20), 1), "load_at_start": os.getloadavg()[0],
            "settings": {name: Path("/proc/sys", name).read_text().strip() for name in KERNEL_SETTINGS}}


def versions(site: Site) -> dict[str, str]:
    found = {}
    for name, arguments in VERSIONS.items():
        if path := site.program(name):
            done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
            line = ((done.stdout or done.stderr).strip().splitlines() or ["?"])[0]
            # The name again, and what libraries it was built with.
            found[name] = re.sub(r"^(\S+ )?version:? *", "", line.removeprefix(name).strip()).partition(" (")[0]
    return found


def header(command: str, about: dict, tools: dict[str, str]) -> str:
    return "\n".join([
        f"{datetime.date.today()}, {about['processor']}, {about['cores']} cores, {about['memory_gib']} GiB, "
        f"Linux {about['kernel']}, load {about['load_at_start']:.1f} at the start.",
        *(f"Offloads of {device}: {', '.join(name for name in TELLING if name in features) or 'none known'}."
          for device, features in about.get("offloads", {}).items()),
        f"Command: `{command}`.",
        "Versions: " + "; ".join(f"{name}: {version}" for name, version in tools.items()) + ".",
    ])


def caption(document: dict) -> str:
    """When, where and with what command a run was made."""
    about = document["machine"]
    return (f"{document['date'][:10]}, {about['processor']}, {about['cores']} cores, Linux {about['kernel']}: "
            f"{document['command']}")


def number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def table(heads: list[str], lines: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads),
                      *("| " + " | ".join(line) + " |" for line in lines)])


def row_table(row: RowResult) -> str:
    title = f"### {row.title}\n\n`{row.key}`"
    if row.skipped:
        return f"{title}: not measured: {row.skipped}"
    names = sorted({name for entry in row.entries.values() for sample in entry.samples for name in sample.figures})
    heads = ["", "median s", "MiB/s", "other ÷ ours", *names, "CPU s/GiB server", "client", "both",
             "peak MiB server", "client", "runs"]
    lines = [entry_line(row, key, entry, names) for key, entry in row.entries.items()]
    return f"{title}\n\n{table(heads, lines)}{notes(row)}"


def entry_line(row: RowResult, key: str, entry: EntryResult, names: list[str]) -> list[str]:
    title = f"**{entry.title}**" if key == OURS else entry.title
    if entry.missing:
        return [title, *["–"] * (8 + len(names)), "–", entry.missing]
    seconds = entry.median(lambda sample: sample.seconds)
    ratio = row.ratio(key)
    bound = "≥ " if ratio is not None and row.ratio_is_bound(key) else ""

    def per_gib(value) -> str:
        return number(None if value is None or not row.bytes else value / (row.bytes / GIB))
    good = sum(sample.ok for sample in entry.samples)
    return [title, number(seconds, 3), number(row.bytes / MIB / seconds if seconds and row.bytes else None, 1),
            bound + number(ratio), *(number(entry.figure(name)) for name in names),
            per_gib(entry.median(lambda sample: sample.server_cpu)),
            per_gib(entry.median(lambda sample: sample.client_cpu)), per_gib(row.cpu(key)),
            number(entry.median(lambda sample: sample.server_peak_mib) or None, 0),
            number(entry.median(lambda sample: sample.client_peak_mib) or None, 0), f"{good}/{len(entry.samples)}"]


def notes(row: RowResult) -> str:
    found = []
    for key, entry in row.entries.items():
        for index, sample in enumerate(entry.samples, 1):
            for text in (sample.error, sample.note):
                if text:
                    found.append(f"- {key}, round {index}: {text}")
    return "\n\n" + "\n".join(found) if found else ""


def target_table(wanted: list[Target], rows: dict[str, RowResult]) -> str:
    lines = []
    for target in wanted:
        outcome = verdict(target, rows.get(target.row))
        sign = "≤" if target.measure in targets.LOWER else "≥"
        bound = target.measure == targets.RATIO and outcome.value and rows[target.row].ratio_is_bound(target.against)
        own = target.own.removeprefix(OURS).replace("@", ", ")
        lines.append([f"`{target.row}`{own}", target.measure, target.against or "",
                      ("≥ " if bound else "") + number(outcome.value), f"{sign} {target.at_least:g}",
                      "" if target.try_for is None else f"{sign} {target.try_for:g}", outcome.text])
    return table(["row", "measure", "against", "measured", "at least", "try for", "verdict"], lines)


def markdown(heading: str, rows: list[RowResult], wanted: list[Target], warnings: list[str]) -> str:
    by_key = {row.key: row for row in rows}
    parts = [heading, *(f"**{warning}**" for warning in warnings), *(row_table(row) for row in rows)]
    if wanted:
        parts.append("### Targets\n\n" + target_table(wanted, by_key))
    return "\n\n".join(parts) + "\n"


def as_json(command: str, about: dict, tools: dict[str, str], rows: list[RowResult], wanted: list[Target]) -> dict:
    by_key = {row.key: row for row in rows}
    outcomes = [verdict(target, by_key.get(target.row)) for target in wanted]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command, "machine": about, "versions": tools,
        "contenders": {key: contender.title for key, contender in CONTENDERS.items()},
        "rows": [dataclasses.asdict(row) | {"ratios": {key: row.ratio(key) for key in row.entries}} for row in rows],
        "targets": [dataclasses.asdict(outcome) for outcome in outcomes],
    }
