"""Line plots and pictures as text inside a page.

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

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 220, 46, 34


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
    low, high = limits or (min(0.0, *values, 0.0), max([*values, 1e-9]) * 1.05)

    def at(index: int, count: int, value: float) -> str:
        x = _LEFT + (index + 0.5) / count * (_WIDTH - _LEFT - 10)
        y = 30 + (1 - (value - low) / (high - low)) * (_HEIGHT - 30 - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f'<text x="{_LEFT}" y="16" class="title">{html.escape(title)}</text>',
        f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 8}" text-anchor="end">'
        f"{html.escape(x_label)}</text>",
    ]
    for tick in np.linspace(low, high, 5):
        y = at(0, 1, float(tick)).split(",")[1]
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - 10}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y}" dy="4" text-anchor="end">{tick:.3g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [at(i, len(line), value) for i, value in enumerate(line) if value is not None]
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}"'
            ' stroke-width="2"/>'
        )
        parts.append(
            f'<text x="{_LEFT + number * 82}" y="{_HEIGHT - 8}" fill="{colour}">'
            f"{html.escape(name)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


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
