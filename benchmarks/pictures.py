# SPDX-License-Identifier: Apache-2.0

"""Bar charts as SVG, as narrow as a phone, with colours for light and dark pages. The browser sets their text."""

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, MARGIN = 400, 10
VALUES = 124  # the column of values beside the bars
ROW, BAR = 42, 14  # heights; a name stands above its bar
LONGEST = 5  # times the median of the panel's first bar of this package; a longer bar is cut and ends in an arrow

LIGHT = {"page": "#ffffff", "ink": "#1f2328", "ours": "#0969b8", "mindspore": "#b35900", "others": "#6e7781"}
DARK = {"page": "#0d1117", "ink": "#e6edf3", "ours": "#3d8fd9", "mindspore": "#cc7a1f", "others": "#8b949e"}


@dataclass(frozen=True)
class Bar:
    """One measurement: quartiles, median, and the text beside the bar. `kind` names its colour."""

    name: str
    low: float
    median: float
    high: float
    text: str
    kind: str


@dataclass(frozen=True)
class Panel:
    """Bars on one scale."""

    title: str
    bars: list


def picture(panels, title, subtitle, kinds, language):
    """Returns an SVG with the panels below each other. `kinds` are the names of the kinds of bars."""
    parts, y = [], 30
    parts.append(text(MARGIN, y, title, "title"))
    for line in subtitle:
        y += 19
        parts.append(text(MARGIN, y, line, "small"))
    y += 12
    parts += legend(y, {kind: name for kind, name in kinds.items() if any(_uses(panel, kind) for panel in panels)})
    y += 14
    for panel in panels:
        y += 30
        parts.append(text(MARGIN, y, panel.title, "panel"))
        end = _end(panel)
        for bar in panel.bars:
            parts += _bar(bar, y + 8, end)
            y += ROW
    return document(y + 20, title, parts, language)


def document(height, title, parts, language):
    """Returns an SVG with some parts in the colours and fonts of this module. Its language chooses the font."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" lang="{language}">',
            f"<title>{escape(title)}</title>",
            f"<style>{_style()}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _uses(panel, kind):
    return any(bar.kind == kind for bar in panel.bars)


def _end(panel):
    """Returns the value at the right end of the scale: the largest quartile, or where bars are cut."""
    ours = min((bar.median for bar in panel.bars if bar.kind == "ours"), default=float("inf"))
    return max(min(bar.high, LONGEST * ours) for bar in panel.bars)


def _bar(bar, y, end):
    scale = (WIDTH - 2 * MARGIN - VALUES) / end
    name, top = text(MARGIN, y + 12, bar.name), y + 17
    middle = top + BAR / 2
    length = min(bar.median, end) * scale
    parts = [name, f'<rect class="{bar.kind}" x="{MARGIN}" y="{top}" width="{length:.1f}" height="{BAR}"/>']
    if bar.median > end:
        x = MARGIN + length
        parts.append(f'<path class="{bar.kind}" d="M{x:.1f} {top - 4}v{BAR + 8}l10 {-BAR / 2 - 4}z"/>')
        right = x + 10
    else:
        low, high = (MARGIN + min(value, end) * scale for value in (bar.low, bar.high))
        path = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10M{high:.1f} {middle - 5}v10"
        parts += [f'<path class="{kind}" d="{path}"/>' for kind in ("halo", "line")]
        right = max(MARGIN + length, high)
    parts.append(text(round(right + 6, 1), middle + 5, bar.text))
    return parts


def legend(y, kinds):
    """Returns a line of coloured squares with the names of the kinds."""
    parts, x = [], MARGIN
    for kind, name in kinds.items():
        parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="12" height="12"/>')
        parts.append(text(x + 17, y + 11, name, "small"))
        x += 110
    return parts


def text(x, y, value, kind="name"):
    """Returns a text that begins at x, on the line y. `kind` names its font and colour."""
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(value)}</text>'


def _style():
    fixed = (
        "text{font-family:system-ui,'Noto Sans CJK SC','PingFang SC','Microsoft YaHei',sans-serif;font-size:14px}"
        ".title{font-size:18px;font-weight:bold}.panel{font-weight:bold}.small{font-size:13px}"
        ".line{stroke-width:1.6;fill:none}.halo{stroke-width:4;fill:none}"
    )
    return f"{fixed}{_colors(LIGHT)}@media (prefers-color-scheme:dark){{{_colors(DARK)}}}"


def _colors(colors):
    bars = "".join(f".{kind}{{fill:{colors[kind]}}}" for kind in ("page", "ours", "mindspore", "others"))
    return f"{bars}text{{fill:{colors['ink']}}}.line{{stroke:{colors['ink']}}}.halo{{stroke:{colors['page']}}}"
