"""Plots and pictures as text inside a page.

Knows numbers and pixels, not what they mean.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

COLOURS = ("#3b6fb6", "#7a7a7a", "#c9472f", "#3f8f4f", "#8e5bb5", "#b58a2a")

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 460, 250, 52, 52, 26
_LETTER = 6.3
"""Width of a letter of the legend, in the plot's units."""


def line_plot(
    title: str,
    lines: Mapping[str, Sequence[float | None]],
    *,
    x_label: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """Several lines over equal parts of a film, as an inline SVG.

    Args:
        title: above the plot.
        lines: name -> one value per part; None leaves a gap.
        x_label: below the plot.
        limits: of the vertical axis; None: 0 to the largest value.
    """
    values = [value for line in lines.values() for value in line if value is not None]
    low, high = limits or (min([*values, 0.0]), max([*values, 1e-9]) * 1.05)
    parts = _frame(title, list(lines), x_label, (low, high))
    for number, line in enumerate(lines.values()):
        points = [
            None if value is None else _place((i + 0.5) / len(line), (value - low) / (high - low))
            for i, value in enumerate(line)
        ]
        parts += _curve(points, COLOURS[number % len(COLOURS)])
    return "\n".join([*parts, "</svg>"])


def scatter_plot(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float, str]]],
    *,
    x_label: str,
) -> str:
    """Named points of several series, each joined from left to right, as an inline SVG.

    Args:
        title: above the plot.
        series: name -> (x, y, name of the point), at least one in all.
        x_label: below the plot.
    """
    points = [point for line in series.values() for point in line]
    right = max(x for x, _, _ in points) * 1.1
    low, high = min(y for _, y, _ in points), max(y for _, y, _ in points)
    margin = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    parts = _frame(title, list(series), x_label, (low, high))
    for tick in np.linspace(0, right, 6)[1:-1]:
        x = _place(tick / right, 0)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{tick:.3g}</text>')
    for number, line in enumerate(series.values()):
        colour = COLOURS[number % len(COLOURS)]
        ordered = sorted(line)
        places = [_place(x / right, (y - low) / (high - low)) for x, y, _ in ordered]
        parts += _curve(places, colour)
        for (x, y), (_, _, name) in zip(places, ordered, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
            parts.append(f'<text x="{x + 5:.1f}" y="{y - 5:.1f}">{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


def _place(across: float, up: float) -> tuple[float, float]:
    """Where a point lies that is so far across and up the plot, both from 0 to 1."""
    x = _LEFT + across * (_WIDTH - _LEFT - 10)
    return x, _TOP + (1 - up) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(
    title: str, names: Sequence[str], x_label: str, limits: tuple[float, float]
) -> list[str]:
    """Title, legend and vertical axis."""
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text x="{_LEFT}" y="16" class="title">{html.escape(title)}</text>',
        f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 8}" text-anchor="end">'
        f"{html.escape(x_label)}</text>",
        *_legend(names),
    ]
    for up, tick in zip(np.linspace(0, 1, 5), np.linspace(*limits, 5), strict=True):
        y = _place(0, up)[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - 10}" class="grid"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y:.1f}" dy="4" text-anchor="end">{tick:.4g}</text>'
        )
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    """Names in their lines' colours, one beside the other under the title."""
    parts, x = [], float(_LEFT)
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<path d="M{x:.0f} 33h12" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 16:.0f}" y="37">{html.escape(name)}</text>')
        x += 30 + _LETTER * len(name)
    return parts


def _curve(points: Sequence[tuple[float, float] | None], colour: str) -> list[str]:
    """A line that is broken where there is no point; a dot where a point stands alone."""
    pieces: list[list[str]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{point[0]:.1f},{point[1]:.1f}")
    parts = []
    for piece in filter(None, pieces):
        if len(piece) == 1:
            x, y = piece[0].split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>')
        else:
            parts.append(
                f'<polyline points="{" ".join(piece)}" fill="none" stroke="{colour}"'
                ' stroke-width="2"/>'
            )
    return parts


def picture_tag(picture: UInt8[np.ndarray, "height width 3"], description: str) -> str:
    """A picture inside the page, as PNG.

    Args:
        picture: 8-bit RGB.
        description: for those who cannot see it.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
