"""Results as a chart: SVG by hand, for light and dark surroundings.

Rows on long paths become groups of bars on one scale of per cent; rows on a fast network become
panels of bars with the speed of each tool. A bar whose runs did not all succeed says so.
"""

from __future__ import annotations

import dataclasses
import textwrap
from html import escape

from . import targets
from .results import MIB, EntryResult, RowResult
from .targets import OUR_PUT, OURS

WIDTH, MARGIN = 880, 24
FONT_PX, SMALL_PX = 12, 11
# The mean width of a letter as a share of its height, in the widest of the usual fonts.
LETTER = 0.6
BAR, GAP, GROUP_GAP = 9, 1, 10
LABEL_PX, VALUE_PX = 230, 90
PANEL_LABEL_PX, PANEL_VALUE_PX, PANEL_GAP = 190, 56, 14
PANEL_BAR = 13
GRID_STEPS, GRID_LINES_MAX = (25, 50, 100, 200, 500), 6
HEADING, LEGEND = 30, 26

# Of each contender, the class of its colour; the rest is grey.
CLASSES = {OURS: "ours", OUR_PUT: "put", "nginx/bbr": "bbr", "nginx/cubic": "cubic", "scp-aes/cubic": "ssh"}
LEGENDS = {OURS: "quire get", OUR_PUT: "quire put", "nginx/bbr": "nginx + curl, TCP BBR",
           "nginx/cubic": "nginx + curl, TCP CUBIC", "scp-aes/cubic": "scp, TCP CUBIC"}
# Of the tools whose titles are too long for a panel.
NAMES = {f"{OURS}@file": "quire, one file", f"{OURS}@1500": "quire, MTU 1500", "nginx": "nginx + curl",
         "nginx-default": "nginx, default cipher", "caddy": "Caddy + curl", "raw": "bare TCP, no encryption",
         "rsync-daemon": "rsync daemon, unencrypted"}
STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .head { font-size: 15px; font-weight: 600; } .name { font-weight: 600; } .small { font-size: 11px; fill: #59636e; }
  .value { font-size: 9.5px; fill: #59636e; }
  .back { fill: #ffffff; } .grid { stroke: #d1d9e0; } .zero { stroke: #818b98; }
  .ours { fill: #0969da; } .put { fill: #7cb8f7; } .bbr { fill: #d1711d; } .cubic { fill: #9a6fd0; }
  .ssh { fill: #2c974b; } .other { fill: #afb8c1; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small, .value { fill: #9198a1; }
    .back { fill: #0d1117; } .grid { stroke: #30363d; } .zero { stroke: #6e7681; }
    .ours { fill: #4493f8; } .put { fill: #3a6fb3; } .bbr { fill: #db8b45; } .cubic { fill: #a882dd; }
    .ssh { fill: #3fb950; } .other { fill: #59616b; }
  }
"""


@dataclasses.dataclass
class Canvas:
    """What was drawn so far, and where the next thing begins."""

    y: float = MARGIN
    parts: list[str] = dataclasses.field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>')

    def bar(self, x: float, y: float, width: float, height: float, style: str, tip: str) -> None:
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" rx="2" '
                          f'class="{style}"><title>{escape(tip)}</title></rect>')

    def line(self, x: float, top: float, bottom: float, style: str) -> None:
        self.parts.append(f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" class="{style}"/>')

    def document(self, title: str, note: str) -> str:
        height = self.y + MARGIN
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
                f'height="{height:.0f}" role="img">\n<title>{escape(title)}</title>\n<desc>{escape(note)}</desc>\n'
                f'<style>{STYLE}</style>\n<rect class="back" width="100%" height="100%" rx="8"/>\n'
                + "\n".join(self.parts) + "\n</svg>\n")


def draw(rows: list[RowResult], note: str) -> str:
    """The chart of a run; `note` says when and where it was made."""
    canvas = Canvas()
    measured = [row for row in rows if any(entry.samples for entry in row.entries.values())]
    for measure, heading in ((targets.SHARE, "Share of the link's rate"),
                             (targets.FAIR, "What one TCP flow gets beside gets of quire, of its fair share")):
        groups = [row for row in measured if any(entry.figure(measure) is not None for entry in row.entries.values())]
        if groups:
            draw_groups(canvas, groups, measure, heading)
    panels = [row for row in measured if row.bytes and not has_share(row)]
    if panels:
        draw_panels(canvas, panels)
    for line in textwrap.wrap(note, int((WIDTH - 2 * MARGIN) / (SMALL_PX * LETTER))):
        canvas.y += SMALL_PX + 4
        canvas.text(MARGIN, canvas.y, line, "small")
    return canvas.document("quire compared with other tools", note)


def has_share(row: RowResult) -> bool:
    return any(targets.SHARE in sample.figures for entry in row.entries.values() for sample in entry.samples)


def heading(canvas: Canvas, words: str) -> None:
    canvas.text(MARGIN, canvas.y + 14, words, "head")
    canvas.y += HEADING


def legend(canvas: Canvas, keys: list[str], measure: str) -> None:
    x = MARGIN
    for key in keys:
        words = LEGENDS.get(key, key)
        if measure == targets.FAIR:
            words = "gets of quire" if key == OURS else "gets on TCP BBR in their place"
        canvas.bar(x, canvas.y, 12, 12, CLASSES.get(key, "other"), words)
        canvas.text(x + 18, canvas.y + 10.5, words)
        x += 18 + len(words) * FONT_PX * LETTER + 22
    canvas.y += LEGEND


def draw_groups(canvas: Canvas, rows: list[RowResult], measure: str, words: str) -> None:
    """One group of bars for each row, all on one scale."""
    heading(canvas, words)
    keys = list(dict.fromkeys(key for row in rows for key, entry in row.entries.items() if entry.samples))
    legend(canvas, keys, measure)
    values = [value for row in rows for entry in row.entries.values() if (value := entry.figure(measure)) is not None]
    most = max(100.0, *values)
    left, width = MARGIN + LABEL_PX, WIDTH - 2 * MARGIN - LABEL_PX - VALUE_PX
    top = canvas.y + SMALL_PX
    below = top + 6
    bars: list[tuple] = []
    for row in rows:
        shown = [(key, entry) for key, entry in row.entries.items() if entry.samples]
        lines = textwrap.wrap(row.label or row.title, int(LABEL_PX / (FONT_PX * LETTER)) - 1)
        height = max(len(shown) * (BAR + GAP), len(lines) * (FONT_PX + 3))
        bars.append((below, below + (height - len(lines) * (FONT_PX + 2)) / 2, lines, shown))
        below += height + GROUP_GAP
    step = next((step for step in GRID_STEPS if most / step <= GRID_LINES_MAX), GRID_STEPS[-1])
    for mark in range(0, int(most) + 1, step):
        x = left + width * mark / most
        canvas.line(x, top + 2, below - GROUP_GAP + 2, "grid" if mark else "zero")
        canvas.text(x, top - 2, f"{mark} %", "small", "middle")
    for y, middle, lines, shown in bars:
        for index, line in enumerate(lines):
            canvas.text(left - 10, middle + (index + 0.8) * (FONT_PX + 2), line, "", "end")
        for index, (key, entry) in enumerate(shown):
            group_bar(canvas, left, y + index * (BAR + GAP), width / most, key, entry, measure)
    canvas.y = below + 8


def group_bar(canvas: Canvas, left: float, y: float, scale: float, key: str, entry: EntryResult, measure: str) -> None:
    value = entry.figure(measure) or 0.0
    words = f"{value:.0f} %{failures(entry)}"
    canvas.bar(left, y, value * scale, BAR, CLASSES.get(key, "other"), f"{entry.title}: {words}")
    canvas.text(left + max(value * scale, 1) + 5, y + BAR - 1, words, "value")


def failures(entry: EntryResult) -> str:
    good = sum(sample.ok for sample in entry.samples)
    return "" if good == len(entry.samples) else f", {good} of {len(entry.samples)} done"


def draw_panels(canvas: Canvas, rows: list[RowResult]) -> None:
    """A panel for each row, two side by side; in each the fastest tool has the longest bar."""
    heading(canvas, "Speed, MiB/s")
    column = (WIDTH - 3 * MARGIN) / 2
    for index in range(0, len(rows), 2):
        pair = rows[index:index + 2]
        titles = [textwrap.wrap(row.title.replace("`", ""), int(column / (FONT_PX * LETTER))) for row in pair]
        head = max(map(len, titles)) * (FONT_PX + 3) + 8
        bottoms = [draw_panel(canvas, row, title, MARGIN + side * (column + MARGIN), column, head)
                   for side, (row, title) in enumerate(zip(pair, titles))]
        canvas.y = max(bottoms) + PANEL_GAP


def draw_panel(canvas: Canvas, row: RowResult, title: list[str], left: float, column: float, head: float) -> float:
    """One panel; where it ends."""
    for index, line in enumerate(title, 1):
        canvas.text(left, canvas.y + index * (FONT_PX + 3), line, "name")
    y = canvas.y + head
    speeds = {key: row.bytes / MIB / seconds for key, entry in row.entries.items()
              if (seconds := entry.median(lambda sample: sample.seconds))}
    width = column - PANEL_LABEL_PX - PANEL_VALUE_PX
    for key, speed in sorted(speeds.items(), key=lambda pair: -pair[1]):
        entry = row.entries[key]
        words = f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"
        style = CLASSES.get(key, "put" if key.startswith(OURS) else "other")
        length = width * speed / max(speeds.values())
        name = textwrap.shorten(NAMES.get(key, entry.title), int(PANEL_LABEL_PX / (FONT_PX * LETTER)), placeholder="…")
        canvas.text(left + PANEL_LABEL_PX - 8, y + PANEL_BAR - 2.5, name, "name" if key == OURS else "", "end")
        canvas.bar(left + PANEL_LABEL_PX, y, length, PANEL_BAR, style, f"{entry.title}: {words} MiB/s")
        canvas.text(left + PANEL_LABEL_PX + length + 5, y + PANEL_BAR - 2.5, words + failures(entry), "small")
        y += PANEL_BAR + 4
    return y
