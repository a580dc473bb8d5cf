"""A scatter plot as SVG: what each of many choices costs in two ways, and the best of them.

Made by hand because a page of numbers needs no library: points, axes with round figures, a line
through the front, and labels that do not lie over each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import Final

_WIDTH: Final = 860
_HEIGHT: Final = 520
_LEFT: Final = 90
_RIGHT: Final = 30
_TOP: Final = 50
_BOTTOM: Final = 60
_LINE: Final = 14

_STYLE: Final = """
svg{font:12px system-ui,sans-serif;background:#fff}
text{fill:#333}.title{font-size:15px;font-weight:600}.grid{stroke:#e4e4e4}
.point{fill:#9aa5b1}.front{fill:#1769aa}.mark{fill:#c62828}
.line{fill:none;stroke:#1769aa;stroke-width:1.5;stroke-dasharray:5 3}
@media(prefers-color-scheme:dark){svg{background:#16191d}text{fill:#d5d9de}.grid{stroke:#2c3138}
.front{fill:#5eb0ef}.line{stroke:#5eb0ef}.mark{fill:#ff7b72}}
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One choice; ``kind`` is ``"point"``, ``"front"`` or ``"mark"``."""

    x: float
    y: float
    label: str
    kind: str = "point"


def scatter_svg(
    points: Sequence[Point],
    title: str,
    x_title: str,
    y_title: str,
    x_words: Callable[[float], str],
    y_words: Callable[[float], str],
) -> str:
    """Return the plot as a document; ``x_words`` and ``y_words`` write the figures of the axes."""
    x_axis = _Axis([p.x for p in points], _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis([p.y for p in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="26">{escape(title)}</text>',
        *(_vertical(x_axis.at(v), x_words(v)) for v in x_axis.ticks()),
        *(_horizontal(y_axis.at(v), y_words(v)) for v in y_axis.ticks()),
        _text(f'x="{(_LEFT + _WIDTH) // 2}" y="{_HEIGHT - 16}"', x_title),
        _text(f'transform="translate(18 {_HEIGHT // 2}) rotate(-90)"', y_title),
        _front_line(points, x_axis, y_axis),
        *(_dot(p, x_axis, y_axis) for p in points),
        *_labels(points, x_axis, y_axis),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(where: str, words: str) -> str:
    return f'<text {where} text-anchor="middle">{escape(words)}</text>'


class _Axis:
    """From values to places between two borders, with round figures on the way."""

    def __init__(self, values: Sequence[float], low: int, high: int) -> None:
        least, most = min(values), max(values)
        room = (most - least) * 0.06 or abs(most) * 0.05 or 1.0
        self.least, self.most = max(least - room, 0.0), most + room
        self.low, self.high = low, high

    def at(self, value: float) -> float:
        share = (value - self.least) / (self.most - self.least)
        return round(self.low + share * (self.high - self.low), 1)

    def ticks(self) -> list[float]:
        step = _round_step((self.most - self.least) / 6)
        first = floor(self.least / step) + 1
        count = floor(self.most / step) - first + 1
        return [(first + i) * step for i in range(count)]


def _round_step(about: float) -> float:
    power: float = 10.0 ** floor(log10(about))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= about)


def _vertical(x: float, words: str) -> str:
    low = _HEIGHT - _BOTTOM
    return (
        f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{low}"/>'
        f'<text x="{x}" y="{low + 18}" text-anchor="middle">{escape(words)}</text>'
    )


def _horizontal(y: float, words: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_WIDTH - _RIGHT}" y2="{y}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(words)}</text>'
    )


def _front_line(points: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> str:
    front = sorted((p for p in points if p.kind != "point"), key=lambda p: (p.x, -p.y))
    places = " ".join(f"{x_axis.at(p.x)},{y_axis.at(p.y)}" for p in front if p.kind == "front")
    return f'<polyline class="line" points="{places}"/>'


def _dot(point: Point, x_axis: _Axis, y_axis: _Axis) -> str:
    radius = 4 if point.kind == "point" else 6
    return (
        f'<circle class="{point.kind}" cx="{x_axis.at(point.x)}" cy="{y_axis.at(point.y)}"'
        f' r="{radius}"><title>{escape(point.label)}</title></circle>'
    )


def _labels(points: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> list[str]:
    """Return labels for all that are not plain points, each where no other is yet."""
    taken: list[tuple[float, float, float]] = []
    found = []
    for point in points:
        if point.kind == "point":
            continue
        x, y = x_axis.at(point.x), y_axis.at(point.y)
        width = 6.6 * len(point.label)
        right = x + 10 + width > _WIDTH
        left_edge = x - 10 - width if right else x + 10
        while any(
            abs(y - b) < _LINE and left_edge < r and left_edge + width > a for a, r, b in taken
        ):
            y += _LINE
        taken.append((left_edge, left_edge + width, y))
        found.append(f'<text x="{left_edge:.1f}" y="{y + 4:.1f}">{escape(point.label)}</text>')
    return found
