# SPDX-License-Identifier: Apache-2.0

"""Draws the parts of a training step by `offload_ratio`, on a second memory:  python tests/second_memory/ratios.py docs

The net, the times and the log are those of `timeline.py`.
"""

# ruff: noqa: RUF001, the punctuation of Chinese

import sys
import tempfile
from pathlib import Path

from timeline import logged_step, total

from benchmarks import pictures

RATIOS = (1.0, 0.75, 0.5, 0.25, 0.0)
STEPS = 40  # other work on the machine leaves gaps in most of them; the fastest one is drawn
# The lanes of a step that are one part of a bar, by the colour of the part.
PARTS = {"others": ("device",), "mindspore": ("to_host", "to_device"), "ours": ("host",)}
NAMES = {
    "en": {
        "title": "a training step by offload_ratio",
        "others": "device",
        "mindspore": "copies",
        "ours": "host: Adam",
    },
    "zh": {"title": "不同offload_ratio的训练步", "others": "设备", "mindspore": "拷贝", "ours": "主机：Adam"},
}
LEGEND, TOP, ROW, BAR = 8, 50, 42, 20
TEXT = 80  # the column of values beside the bars


def parts_of(lanes):
    """Returns the milliseconds of each part."""
    return {part: sum(total(lanes[lane]) for lane in of_part) for part, of_part in PARTS.items()}


def picture(steps, language):
    """Returns an SVG with a bar for each ratio. `steps` are pairs of a step's milliseconds and its parts."""
    names = NAMES[language]
    scale = (pictures.WIDTH - 2 * pictures.MARGIN - TEXT) / max(sum(parts.values()) for _, parts in steps.values())
    drawn, y = pictures.legend(LEGEND, {part: names[part] for part in PARTS}), TOP
    for ratio, (milliseconds, parts) in steps.items():
        drawn.append(pictures.text(pictures.MARGIN, y - 5, f"{ratio:g}"))
        x = pictures.MARGIN
        for part, busy in parts.items():
            drawn.append(f'<rect class="{part}" x="{x:.1f}" y="{y}" width="{busy * scale:.1f}" height="{BAR}"/>')
            x += busy * scale
        drawn.append(pictures.text(round(x + 6, 1), y + BAR - 5, f"{milliseconds:.0f} ms"))
        y += ROW
    return pictures.document(y - ROW + BAR + 12, names["title"], drawn, language)


def main(folder):
    steps = {}
    for ratio in RATIOS:
        with tempfile.TemporaryDirectory() as logs:
            milliseconds, lanes = logged_step("O0", 1, logs, steps=STEPS, offload_ratio=ratio)
        steps[ratio] = milliseconds, parts_of(lanes)
        busy = ", ".join(f"{lane} {total(lanes[lane]):.1f}" for lane in lanes)
        print(f"{ratio:4}{milliseconds:8.1f} ms a step: {busy}")
    for language, ending in (("en", ".svg"), ("zh", ".zh.svg")):
        (folder / f"ratios{ending}").write_text(picture(steps, language), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
