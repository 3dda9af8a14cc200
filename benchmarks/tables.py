# SPDX-License-Identifier: Apache-2.0

"""The tables that are printed."""


def header(report):
    return (
        f"mindspore_offload {report['mindspore_offload']}, MindSpore {report['MindSpore']}, numpy {report['numpy']}, "
        f"Python {report['Python']}\n{report['CPU']}, {report['instruction set']}, {report['threads']} threads, "
        f"CPU device. Times are medians, quartiles in brackets."
    )


def of(table):
    """Returns the table of a part as text."""
    if "net" in table:
        return _training(table)
    return _loaded(table) if "loaded" in table else _steps(table)


def _steps(table):
    lines = [
        f"\nOne step, {table['params']:,} parameters in {table['tensors']} tensors, {table['threads']} "
        f"thread{'s' * (table['threads'] > 1)}, {table['steps']} steps",
        f"{'':40}{'ms':>9}{'quartiles':>18}{'relative':>10}{'ns/param':>10}{'GB/s':>7}{'first step, s':>15}",
    ]
    for row in table["rivals"]:
        lines.append(
            f"{row['name']:40}{row['ms']:9.2f}{_quartiles(row):>18}{row['relative']:9.2f}x"
            f"{row['ns_a_parameter']:10.2f}{row['gb_s']:7.1f}{row['first_step_s']:15.2f}"
        )
    return "\n".join(lines + table["missing"])


def _training(table):
    lines = [
        f"\nA whole training step: {table['net']}",
        f"{table['params']:,} float32 parameters in {table['tensors']} tensors, {table['steps']} steps in "
        f"{table['rounds']} processes",
        f"{'':34}{'ms':>8}{'quartiles':>20}{'relative':>10}{'optimizer':>11}{'compile, s':>12}{'first step, s':>15}"
        f"{'peak MB':>9}",
    ]
    for row in table["rivals"]:
        lines.append(
            f"{row['name']:34}{row['ms']:8.1f}{_quartiles(row):>20}{row['relative']:9.2f}x{row['optimizer_share']:11.0%}"
            f"{row['compile_s']:12.1f}{row['first_step_s']:15.1f}{row['peak_mb']:9,.0f}"
        )
    return "\n".join(lines)


def _loaded(table):
    idle, loaded = table["idle"], table["loaded"]
    return (
        f"\nAdamOffload, {table['params']:,} parameters, with one of its cores kept busy by another process: "
        f"{loaded[1] * 1e3:.1f} ms\n[{loaded[0] * 1e3:.1f} - {loaded[2] * 1e3:.1f}], {loaded[1] / idle[1]:.2f} times "
        f"the {idle[1] * 1e3:.1f} ms [{idle[0] * 1e3:.1f} - {idle[2] * 1e3:.1f}] without"
    )


def _quartiles(row):
    return f"[{row['ms_low']:.2f} - {row['ms_high']:.2f}]"
