"""Line charts as SVG text, for a page that needs no library: axes with units, ticks, a shaded
healthy range. What a mouse shows of them is in page.js."""

import json
import math
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 360, 210  # of a chart, in pixels
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 34, 34  # margins
COUNTS = ("updates", "steps")  # what x may be: whole numbers from 0 on
MOST = 400  # points of a line; more are averaged in groups


class Line(NamedTuple):
    name: str
    points: list  # of (x, y); y None breaks the line
    kind: str = "main"  # its class in page.css: main, thin or evaluation


class Chart(NamedTuple):
    title: str
    unit: str  # of y
    lines: list
    healthy: tuple = (None, None)  # least and largest healthy y; None where there is no limit
    x: str = "updates"
    diagonal: bool = False  # confidence from 1/2 to 1 against shares, and where they are equal


class Scale(NamedTuple):
    """From a number to a place: low stands at `start`, high at `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def place(self, number):
        share = (number - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)


def svg(chart):
    """A chart as SVG. Without a finite number it says so."""
    lines = [line._replace(points=thinned(line.points)) for line in chart.lines]
    points = [point for line in lines for point in line.points if point[1] is not None]
    if not points:
        return frame(chart, ['<text x="180" y="105" class="empty">no numbers yet</text>'])
    x = Scale(*limits(chart, [x for x, _ in points], padded=False), LEFT, WIDTH - RIGHT)
    y = Scale(*limits(chart, [y for _, y in points]), HEIGHT - BOTTOM, TOP)
    parts = [*shade(chart.healthy, y), *axes(chart, x, y)]
    if chart.diagonal:
        parts.append(f'<path class="diagonal" d="{path([(0.5, 0.5), (1, 1)], x, y)}"/>')
    for line in lines:
        kind = escape(line.kind)
        parts.append(f'<path class="line {kind}" d="{path(line.points, x, y)}"/>')
        marked = [p for p in line.points if p[1] is not None] if kind != "thin" else []
        if len(marked) <= 30:
            parts += [
                f'<circle class="{kind}" cx="{x.place(a)}" cy="{y.place(b)}" r="2.2"/>'
                for a, b in marked
            ]
    return frame(chart, parts, lines, (x, y))


def frame(chart, parts, lines=(), scales=()):
    """The SVG element around the parts: title, legend, and as data what the mouse asks for."""
    names = [line for line in lines if line.name]
    legend = "".join(
        f'<tspan class="{escape(line.kind)}" dx="8">{escape(line.name)}</tspan>' for line in names
    )
    data = {"lines": [[line.name, line.points] for line in names], "scales": scales}
    attribute = escape(json.dumps(data))
    label = escape(f"{chart.title}, {chart.unit}")
    return "\n".join(
        [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" '
            f'data-chart="{attribute}">',
            f'<text x="{LEFT}" y="12" class="title">{escape(chart.title)}'
            f'<tspan class="unit" dx="6">{escape(chart.unit)}</tspan></text>',
            f'<text x="{LEFT - 8}" y="23" class="legend">{legend if len(names) > 1 else ""}</text>',
            *parts,
            f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" class="axis">'
            f"{escape(chart.x)}</text>",
            '<path class="cursor"/><text class="reading"/>',
            "</svg>",
        ]
    )


def shade(healthy, y):
    """The healthy range as a band across the chart, as far as it is in sight."""
    low = y.low if healthy[0] is None else max(healthy[0], y.low)
    high = y.high if healthy[1] is None else min(healthy[1], y.high)
    if healthy == (None, None) or low >= high:
        return []
    top, bottom = y.place(high), y.place(low)
    size = f'width="{WIDTH - LEFT - RIGHT}" height="{round(bottom - top, 1)}"'
    return [f'<rect class="healthy" x="{LEFT}" y="{top}" {size}/>']


def axes(chart, x, y):
    parts = []
    for tick, label in ticks(y.low, y.high):
        place = y.place(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {place}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{place + 3.5}" class="ytick">{label}</text>')
    for tick, label in ticks(x.low, x.high, whole=chart.x in COUNTS):
        place, bottom = x.place(tick), HEIGHT - BOTTOM
        parts.append(f'<path class="grid" d="M{place} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{place}" y="{bottom + 13}" class="xtick">{label}</text>')
    return parts


def limits(chart, numbers, padded=True):
    """(low, high) of an axis. A healthy limit that is near shows as well."""
    if chart.diagonal:
        return (0.0, 1.0) if padded else (0.5, 1.0)
    low, high = min(numbers), max(numbers)
    spread = high - low or abs(high) or 1.0
    if padded:
        for limit in chart.healthy:
            if limit is not None and low - spread <= limit <= high + spread:
                low, high = min(low, limit), max(high, limit)
        return low - 0.05 * spread, high + 0.05 * spread
    low = min(low, 0) if chart.x in COUNTS else low
    return low, high if high > low else low + 1


def ticks(low, high, whole=False):
    """About four round numbers between two, each with its label."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 5)
    if whole:
        step = max(round(step), 1)
    first, last = math.ceil(low / step), math.floor(high / step)
    decimals, size = -math.floor(math.log10(step)), max(abs(low), abs(high))
    form = f".{max(decimals, 0)}f"
    if decimals > 6 or size > 1e6:  # as many digits as tell neighbours apart
        form = f".{max(math.floor(math.log10(size)) + decimals + 1, 1)}g"
    return [(k * step, format(k * step, form)) for k in range(first, last + 1)]


def path(points, x, y):
    """The d of an SVG path. Where y is None the line is broken."""
    words, pen = [], "M"
    for a, b in points:
        if b is None:
            pen = "M"
            continue
        words.append(f"{pen}{x.place(a)} {y.place(b)}")
        pen = "L"
    return "".join(words)


def thinned(points):
    """At most MOST points: means of groups of neighbours."""
    size = -(-len(points) // MOST)
    if size <= 1:
        return [tuple(point) for point in points]
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [mean_point(group) for group in groups]


def mean_point(group):
    finite = [y for _, y in group if y is not None]
    y = sum(finite) / len(finite) if finite else None
    return sum(x for x, _ in group) / len(group), y
