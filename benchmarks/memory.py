# SPDX-License-Identifier: Apache-2.0

"""Draws the memory that the training of a large model needs:  python -m benchmarks.memory docs"""

import sys
from pathlib import Path

from benchmarks.pictures import BAR, MARGIN, ROW, VALUES, WIDTH, document, legend, text
from benchmarks.words import words
from mindspore_offload import estimate

PARAMETERS, DTYPE = 7e9, "float16"


def picture(language):
    """Returns an SVG with a bar for each optimizer: its bytes on the device, then those on the host."""
    say = words(language)
    ours, _, without_masters, with_masters = estimate(PARAMETERS, DTYPE)
    smaller, smallest = (estimate(PARAMETERS, DTYPE, moment_dtype=dtype)[0] for dtype in ("bfloat16", "uint8"))
    rows = {
        "nn.Adam, float16 only, 16-bit moments, no master": without_masters,
        "Adam on the device, float32 states": with_masters,
        "this package, float32 states": ours,
        "this package, bfloat16 moments": smaller,
        "this package, uint8 moments": smallest,
    }
    scale = (WIDTH - 2 * MARGIN - VALUES) / max(row.device + row.host for row in rows.values())
    title = say("Memory for training 7 billion 16-bit weights")
    parts = [
        text(MARGIN, 26, title, "panel"),
        text(MARGIN, 45, say("Computed: weights, gradients, states; no activations"), "small"),
        *legend(57, {"mindspore": say("on the device"), "ours": say("on the host")}),
    ]
    y = 92
    for name, row in rows.items():
        parts.append(text(MARGIN, y, say(", ").join(map(say, name.split(", ")))))
        x = MARGIN
        for kind, size in (("mindspore", row.device), ("ours", row.host)):
            parts.append(f'<rect class="{kind}" x="{x:.1f}" y="{y + 6}" width="{size * scale:.1f}" height="{BAR}"/>')
            x += size * scale
        sizes = " + ".join(f"{size / 1e9:.0f}" for size in (row.device, row.host) if size)
        parts.append(text(round(x + 6, 1), y + 18, f"{sizes} GB"))
        y += ROW
    return document(y - 10, title, parts, language)


def main(folder):
    for language, ending in (("en", ".svg"), ("zh", ".zh.svg")):
        (folder / f"memory{ending}").write_text(picture(language), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
