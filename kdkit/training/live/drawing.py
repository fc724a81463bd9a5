"""The dashboard as HTML: small charts in SVG, which take a millisecond and follow a light or a dark page.

Text and axes have the page's own colour, so nothing here is white or black; the lines' colours stand out on both.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.ticker import MaxNLocator

Points = Sequence[tuple[float, float]]
"""Optimizer steps, and values after them."""

COLOURS = ("#0d9488", "#ea580c", "#6366f1", "#db2777", "#b7860b", "#0284c7", "#65a30d", "#8a8f98")
"""Of lines, in their order; each has a contrast of 3 or more on white and on JupyterLab's dark grey."""
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 132, 42, 8, 8, 18
"""Of a chart and its margins, in its own units."""
MAX_POINTS = 200
"""Of a line that are drawn; of more, some from first to last."""
MAX_LAYERS = 6
"""Routed layers that are shown; of more, some from first to last."""

STYLE = """<style>
.kdkit-dashboard{font:13px/1.45 var(--jp-content-font-family,system-ui,sans-serif);max-width:960px}
.kdkit-dashboard .track{height:6px;border-radius:3px;background:color-mix(in srgb,currentColor 14%,transparent);
 margin:5px 0 7px;overflow:hidden}
.kdkit-dashboard .track div{height:100%;background:#0d9488}
.kdkit-dashboard .facts{display:flex;flex-wrap:wrap;gap:2px 26px}
.kdkit-dashboard .facts b{font-weight:600;font-variant-numeric:tabular-nums}
.kdkit-dashboard .grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:10px 18px;
 margin-top:8px}
.kdkit-dashboard .few{grid-template-columns:repeat(auto-fill,minmax(210px,1fr))}
.kdkit-dashboard .panel{min-width:0}
.kdkit-dashboard .title{font-weight:600}
.kdkit-dashboard svg{display:block;width:100%;height:auto;overflow:visible}
.kdkit-dashboard text{font-size:10px;fill:currentColor;opacity:.75}
.kdkit-dashboard .legend{display:flex;flex-wrap:wrap;gap:0 12px;font-size:12px}
.kdkit-dashboard .legend i,.kdkit-dashboard .shares i{font-style:normal}
.kdkit-dashboard .legend i:before{content:"";display:inline-block;width:10px;height:3px;margin:0 5px 3px 0;
 background:var(--line)}
.kdkit-dashboard .shares{display:flex;height:17px;margin:3px 0;font-size:10px;line-height:17px}
.kdkit-dashboard .shares span{opacity:.75;width:52px;flex:none}
.kdkit-dashboard .shares i{color:#000;overflow:hidden;text-align:center;white-space:nowrap}
</style>"""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    label: str
    """Empty: the chart's title says it."""
    points: Points
    colour: str


@dataclass(frozen=True)
class Chart:
    """Lines over optimizer steps, with a dashed level where there is one."""

    title: str
    lines: list[Line]
    level: Line | None = None
    """Its last point's value is the level."""
    marks: bool = False
    """Whether the points are shown, of which there are few."""
    from_zero: bool = False
    """Whether the axis begins at 0, so that what hardly changes looks so."""
    note: str = ""
    """Beside the legend."""


@dataclass
class Head:
    """What stands above the charts."""

    name: str
    state: str
    """In a word or two: `training`, `done`, `stopped`."""
    step: int
    total: int
    facts: dict[str, str] = field(default_factory=dict)
    """Values by their names."""
    note: str = ""


def draw_head(head: Head) -> str:
    """Return name, state, bar and figures as HTML."""
    share = 100 * min(head.step / max(head.total, 1), 1.0)
    facts = "".join(
        f"<span>{html.escape(name)} <b>{html.escape(value)}</b></span>" for name, value in head.facts.items()
    )
    note = f"<div>{html.escape(head.note)}</div>" if head.note else ""
    return (
        f'<div><b>{html.escape(head.name)}</b>: <span class="state">{html.escape(head.state)}</span>, '
        f"step {head.step:,} of {head.total:,}</div>"
        f'<div class="track"><div style="width:{share:.1f}%"></div></div><div class="facts">{facts}</div>{note}'
    )


def draw_charts(charts: list[Chart], shares: list[list[float]] | None, total: int) -> str:
    """Return the charts side by side as HTML.

    Args:
        shares: mean weight of every expert, `[num_layers, num_experts]`; None: nothing is routed.
        total: optimizer steps of the training, the end of every axis.
    """
    panels = [_draw_chart(chart, total) for chart in charts]
    panels += [_draw_shares(shares)] if shares else []
    return f'<div class="grid{" few" if len(panels) <= 4 else ""}">{"".join(panels)}</div>'


def page(*parts: str) -> str:
    """Put parts into one piece of HTML with its style."""
    return f'{STYLE}<div class="kdkit-dashboard">{"".join(parts)}</div>'


@dataclass(frozen=True)
class _Scale:
    """From steps and values to places in a chart."""

    end: int
    """The last step of the axis."""
    low: float
    high: float

    def x(self, step: float) -> float:
        """Return where a step lies from left to right."""
        return LEFT + step * (WIDTH - LEFT - RIGHT) / max(self.end, 1)

    def y(self, value: float) -> float:
        """Return where a value lies from top to bottom."""
        return TOP + (self.high - value) * (HEIGHT - TOP - BOTTOM) / (self.high - self.low)


def _draw_chart(chart: Chart, total: int) -> str:
    every = [*chart.lines, *([chart.level] if chart.level else [])]
    values = [value for line in every for _, value in line.points]
    low, high = 0.0 if chart.from_zero else min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    end = max([total, *(line.points[-1][0] for line in chart.lines)])
    scale = _Scale(end, low if chart.from_zero else low - margin, high + margin)
    marks = [_draw_axes(scale), *(_draw_line(line, scale, chart.marks) for line in chart.lines)]
    if chart.level:
        style = f'stroke="{chart.level.colour}" stroke-dasharray="5 4"'
        marks.append(_draw_level(scale.y(chart.level.points[-1][1]), style))
    legend = "".join(
        f'<i style="--line:{line.colour}">{html.escape(line.label)} {_short(line.points[-1][1])}</i>'
        for line in every
        if line.label
    )
    legend += f"<span>{html.escape(chart.note)}</span>" if chart.note else ""
    return (
        f'<div class="panel"><div class="title">{html.escape(chart.title)}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(marks)}</svg><div class="legend">{legend}</div></div>'
    )


def _draw_axes(scale: _Scale) -> str:
    marks = []
    ticks = [float(tick) for tick in MaxNLocator(nbins=4).tick_values(scale.low, scale.high)]
    digits = _digits(ticks[1] - ticks[0])
    for tick in ticks:
        if scale.low <= tick <= scale.high:
            y, label = scale.y(tick), f"{tick:,.{digits}f}" if digits < 6 else f"{tick:.1e}"
            marks.append(_draw_level(y, 'stroke="currentColor" stroke-opacity=".15"'))
            marks.append(f'<text x="{LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
    for step, anchor, label in ((0, "start", "0"), (scale.end, "end", f"{scale.end:,} steps")):
        marks.append(f'<text x="{scale.x(step):.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">{label}</text>')
    return "".join(marks)


def _draw_level(y: float, style: str) -> str:
    return f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" {style}/>'


def _draw_line(line: Line, scale: _Scale, marks: bool) -> str:
    places = [(scale.x(step), scale.y(value)) for step, value in choose_evenly(line.points, MAX_POINTS)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="1.7"/>'
    if marks or len(places) == 1:
        drawn += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{line.colour}"/>' for x, y in places)
    return drawn


def _draw_shares(shares: list[list[float]]) -> str:
    """Return a bar for every layer, in which an expert's part is as wide as its share."""
    rows = []
    for layer in choose_evenly(range(len(shares)), MAX_LAYERS):
        parts = "".join(
            f'<i style="width:{100 * share:.2f}%;background:hsl({360 * expert // len(shares[layer])} 50% 68%)">'
            f"{expert if share > 0.06 else ''}</i>"
            for expert, share in enumerate(shares[layer])
        )
        rows.append(f'<div class="shares"><span>layer {layer}</span>{parts}</div>')
    return f'<div class="panel"><div class="title">Share of each expert</div>{"".join(rows)}</div>'


def choose_evenly(items: Sequence, count: int) -> list:
    """Return at most so many items, evenly spread from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _digits(step: float) -> int:
    """Return how many digits behind the point tell multiples of a step apart."""
    return next((digits for digits in range(9) if math.isclose(round(step, digits), step, rel_tol=1e-6)), 9)


def _short(value: float) -> str:
    """Write a value in a few digits: 12,300, 0.0042, 2.93."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def colours_of(names: Mapping[str, object] | Sequence[str]) -> dict[str, str]:
    """Give every name a line's colour, in their order."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
