"""The table of steps as a picture."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Of Okabe and Ito, which people who see colours differently tell apart; the lightness differs too.
OURS, MINDSPORE, OTHERS, INK = "#0072B2", "#E69F00", "#8C8C8C", "#202020"
DASHED = (0, (4, 3))
LONGEST = 5.5  # times the bare loop; a longer bar is cut, and says so


def plot(report, path):
    """Draws the last table of steps: a bar a rival, its median, and the spread of its steps."""
    table = report["steps"][-1]
    bare_loop = next(row for row in table["rivals"] if row["name"] == "bare loop")
    rows = [row for row in table["rivals"] if row is not bare_loop]
    halves = [row for row in rows if "float16" in row["name"]]
    panels = [("float32 weights", [row for row in rows if row not in halves]), ("16-bit weights", halves)]
    panels = [(title, sorted(shown, key=lambda row: row["ms"])) for title, shown in panels if shown]
    end = bare_loop["ns_a_parameter"] * LONGEST

    figure, axes = plt.subplots(
        len(panels),
        sharex=True,
        squeeze=False,
        figsize=(11, 1.7 + 0.42 * len(rows)),
        gridspec_kw={"height_ratios": [len(shown) for _, shown in panels]},
        layout="constrained",
    )
    for axis, (title, shown) in zip(axes[:, 0], panels):
        _draw(axis, shown, bare_loop, table, end)
        axis.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes[-1, 0].set_xlabel(
        "nanoseconds a parameter: a bar is the median, its line goes from the fastest to the slowest step\n"
        "(x: time of a step relative to AdamOffload)"
    )
    _explain(figure, bare_loop, {_color(row["name"]) for row in rows})
    figure.suptitle(
        f"One Adam step of {table['params'] / 1e6:.0f} million parameters\n",
        x=0.01,
        ha="left",
        fontsize=16,
        fontweight="bold",
    )
    figure.text(
        0.01,
        1 - 0.52 / figure.get_figheight(),
        f"{report['CPU']}, {report['threads']} threads, MindSpore {report['MindSpore']}, CPU device, "
        f"{table['steps']} steps of each in turn",
        fontsize=10.5,
        color="#555555",
    )
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _draw(axis, rows, bare_loop, table, end):
    of_milliseconds = 1e6 / table["params"]  # nanoseconds a parameter
    for place, row in enumerate(rows):
        value, low, high = (row[key] * of_milliseconds for key in ("ms", "ms_min", "ms_max"))
        is_cut = value > end
        axis.barh(place, min(value, end), height=0.68, color=_color(row["name"]))
        if not is_cut:
            axis.plot([low, min(high, end)], [place, place], color=INK, linewidth=1.6, solid_capstyle="butt")
            for bound in (low, high):
                axis.plot([bound, bound], [place - 0.14, place + 0.14], color=INK, linewidth=1.6)
        text = f"{value:.2f} ns,  {row['relative']:.2f}x"
        if is_cut:
            ink = "white" if _color(row["name"]) == OURS else "black"
            axis.text(end * 0.99, place, f"{text}  ▶", va="center", ha="right", fontsize=10.5, color=ink)
        else:
            axis.text(min(max(value, high), end) + end * 0.01, place, text, va="center", fontsize=10.5)
    axis.axvline(bare_loop["ns_a_parameter"], color=INK, linestyle=DASHED, linewidth=1.4, zorder=0)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=11)
    axis.set_xlim(0, 1.12 * end)  # room for what stands behind a long bar
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _explain(figure, bare_loop, colors):
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=color, label=label)
        for color, label in ((OURS, "this package"), (MINDSPORE, "MindSpore"), (OTHERS, "other frameworks"))
        if color in colors
    ]
    line = plt.Line2D([], [], color=INK, linestyle=DASHED, label=f"bare loop, {bare_loop['ns_a_parameter']:.2f} ns")
    figure.legend(handles=[*handles, line], loc="upper right", ncols=2, frameon=False, fontsize=10.5)


def _color(name):
    if name.startswith("Adam"):
        return OURS
    return MINDSPORE if name.startswith(("nn.", "ops.", "Fused")) else OTHERS
