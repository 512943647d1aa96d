"""What was measured, and the figures that follow from it: medians, ratios, verdicts."""

from __future__ import annotations

import dataclasses
from statistics import median

from . import targets
from .contenders import OURS
from .processes import Sample
from .targets import Target

MIB = 1 << 20
GIB = 1 << 30


@dataclasses.dataclass
class EntryResult:
    """One contender in one row; `samples[i]` belongs to round `i`."""

    title: str
    missing: str | None = None
    samples: list[Sample] = dataclasses.field(default_factory=list)

    def median(self, value) -> float | None:
        values = [value(sample) for sample in self.samples if sample.ok]
        return median(values) if values else None

    def figure(self, name: str) -> float | None:
        """The median; a run cut off counts with its time limit."""
        values = [sample.figures[name] for sample in self.samples
                  if (sample.ok or sample.timed_out) and name in sample.figures]
        return median(values) if values else None


@dataclasses.dataclass
class RowResult:
    """One row: the same work done by several contenders."""

    key: str
    title: str
    bytes: int = 0
    # A few words for a chart, where the title is too long.
    label: str = ""
    skipped: str | None = None
    entries: dict[str, EntryResult] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, row: dict) -> RowResult:
        """A row of the document that `report.as_json` made."""
        fields = {field.name for field in dataclasses.fields(cls)}
        entries = {key: EntryResult(entry["title"], entry["missing"], [Sample(**sample) for sample in entry["samples"]])
                   for key, entry in row["entries"].items()}
        return cls(**{name: value for name, value in row.items() if name in fields} | {"entries": entries})

    def ratio(self, other: str, own: str = OURS) -> float | None:
        """Median over the rounds of the other's time by ours; a run cut off counts with its limit."""
        ours, theirs = self.entries.get(own), self.entries.get(other)
        if ours is None or theirs is None:
            return None
        ratios = [their.seconds / our.seconds for our, their in zip(ours.samples, theirs.samples)
                  if (our.ok or our.timed_out) and (their.ok or their.timed_out)]
        return median(ratios) if ratios else None

    def ratio_is_bound(self, other: str) -> bool:
        return any(sample.timed_out for sample in self.entries[other].samples)

    def cpu(self, entry: str) -> float | None:
        if entry not in self.entries:
            return None
        return self.entries[entry].median(lambda sample: sample.client_cpu + sample.server_cpu)

    def value(self, target: Target) -> float | None:
        ours = self.entries.get(target.own)
        if ours is None:
            return None
        if target.measure == targets.RATIO:
            return self.ratio(target.against, target.own)
        if target.measure == targets.CPU_RATIO:
            mine, theirs = self.cpu(target.own), self.cpu(target.against)
            return mine / theirs if mine and theirs else None
        if target.measure == targets.QUEUE_EXCESS:
            mine = ours.figure(targets.QUEUE)
            theirs = self.entries[target.against].figure(targets.QUEUE) if target.against in self.entries else None
            return mine - theirs if mine is not None and theirs is not None else None
        if target.measure == targets.DEAD:
            return float(sum(not sample.ok and not sample.timed_out for sample in ours.samples))
        if target.measure == targets.CLIENT_PEAK:
            return ours.median(lambda sample: sample.client_peak_mib)
        if target.measure == targets.SERVER_PEAK:
            return ours.median(lambda sample: sample.server_peak_mib)
        return ours.figure(target.measure)

    def why_not(self, target: Target) -> str:
        """Why a target has no value."""
        if self.skipped:
            return self.skipped
        for key in (target.own, target.against):
            entry = self.entries.get(key) if key else None
            if key and entry is None:
                return f"{key} is not in this run"
            if entry and entry.missing:
                return entry.missing
            if entry and not any(sample.ok for sample in entry.samples):
                return next((f"{key}: {sample.error}" for sample in entry.samples), f"{key}: no run")
        return "no figure"


@dataclasses.dataclass
class Verdict:
    """One target and what came of it."""

    target: Target
    value: float | None
    text: str


def verdict(target: Target, row: RowResult | None) -> Verdict:
    if row is None:
        return Verdict(target, None, "not measured: the row was not run")
    value = row.value(target)
    if value is None:
        return Verdict(target, None, f"not measured: {row.why_not(target)}")
    failures = 0 if target.measure == targets.DEAD else sum(
        not sample.ok for sample in row.entries[target.own].samples)
    if failures:
        return Verdict(target, value, f"**missed**: {failures} of our runs failed")
    if not target.met(value, target.at_least):
        return Verdict(target, value, "**missed**")
    if target.try_for is not None and target.met(value, target.try_for):
        return Verdict(target, value, "met, and the aim")
    return Verdict(target, value, "met")
