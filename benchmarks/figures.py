# SPDX-License-Identifier: Apache-2.0

"""Writes the tables and pictures of one machine into files that are named after its CPU."""

import re

from benchmarks.pictures import Bar, Panel, picture
from benchmarks.words import words

# The bars of the first picture.
MAIN = ("AdamOffload", "nn.Adam", "nn.AdamOffload", "torch Adam, fused", "DeepSpeedCPUAdam", "bare loop")


def write(report, text, folder):
    """Writes `text`, and in each language a picture of the main bars and one of all. Returns the paths."""
    name = re.sub(r"[^a-z0-9]+", "-", report["CPU"].lower()).strip("-")
    files = {f"{name}.txt": text + "\n"}
    for language, ending in (("en", ""), ("zh", ".zh")):
        say = words(language)
        panels = [_panel(part, table, say) for part, table in report["parts"].items() if "rivals" in table]
        files[f"{name}{ending}.svg"] = _picture(
            report, [_panel("large", report["parts"]["large"], say, MAIN)], language
        )
        files[f"{name}-all{ending}.svg"] = _picture(report, panels, language)
    for file, content in files.items():
        (folder / file).write_text(content, encoding="utf-8")
    return [folder / file for file in files]


def _picture(report, panels, language):
    say = words(language)
    subtitle = [
        report["CPU"],
        say("{threads} threads, MindSpore {MindSpore}, CPU device").format(**report),
        say("Bar: median. Line: middle half of the steps."),
        say("ns: of one parameter. x: relative to AdamOffload."),
    ]
    kinds = {"ours": say("this package"), "mindspore": "MindSpore", "others": say("others")}
    return picture(panels, say("Adam on this CPU: shorter is faster"), subtitle, kinds, language)


def _panel(part, table, say, names=None):
    params = table["params"]
    title = say(part).format(tensors=table["tensors"], millions=params / 1e6, ten_thousands=params / 1e4)
    rows = [row for row in table["rivals"] if not names or row["name"] in names]
    if "net" in table:
        return Panel(title, [_bar(row, 1, "{:.0f} ms, {:.2f}x", say) for row in rows])
    nanoseconds = 1e6 / params  # of one parameter, for a millisecond a step
    rows.sort(key=lambda row: row["ms"])
    return Panel(title, [_bar(row, nanoseconds, "{:.2f} ns, {:.2f}x", say) for row in rows])


def _bar(row, unit, form, say):
    return Bar(
        ", ".join(map(say, row["name"].split(", "))),
        *(row[key] * unit for key in ("ms_low", "ms", "ms_high")),
        form.format(row["ms"] * unit, row["relative"]),
        _kind(row["name"]),
    )


def _kind(name):
    if name.startswith("Adam"):
        return "ours"
    return "mindspore" if name.startswith(("nn.", "ops.", "Fused")) else "others"
