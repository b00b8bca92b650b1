"""Pieces of SVG that the plots of reports share; colours are the page's, by class."""

import math

from markupsafe import Markup, escape

_TICK_STEPS = (1, 2, 2.5, 5, 10)


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """A straight line."""
    return f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    """A line of text, escaped."""
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def diamond(x: float, y: float, reach: float, css: str) -> str:
    """A diamond around a point, its corners `reach` away."""
    r = f"{reach:g}"
    return f'<path class="{css}" d="M{x:.1f} {y - reach:.1f}l{r} {r}-{r} {r}-{r}-{r}z"/>'


def circle(x: float, y: float, radius: float, css: str) -> str:
    """A circle around a point."""
    return f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def round_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round values from `low` to `high`, about `wanted` of them."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in _TICK_STEPS if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(width: float, height: float, title: str, description: str, parts: list[str], css: str = "plot") -> Markup:
    """A picture with its title and its numbers in words.

    Args:
        parts: elements made of numbers, fixed class names and escaped text only, as above.
    """
    return Markup(
        f'<svg class="{css}" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(parts)}</svg>"
    )
