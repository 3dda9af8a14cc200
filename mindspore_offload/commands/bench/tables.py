"""What ``bench`` prints of its report."""


def header(report):
    lines = [
        f"mindspore_offload {report['mindspore_offload']}, MindSpore {report['MindSpore']}, numpy {report['numpy']}, "
        f"Python {report['Python']}, {report['CPU']}, {report['instruction set']}, {report['threads']} threads, "
        f"seed {report['seed']}"
    ]
    return "\n".join(lines + report["missing"])


def steps(table):
    lines = [
        f"\nOne step, {table['params']:,} parameters in {table['tensors']} tensors, median of {table['steps']}",
        f"{'':38}{'ms':>9}{'of AdamOffload':>16}{'spread':>17}{'ns/param':>10}{'GB/s':>7}{'first step, s':>15}",
    ]
    for row in table["rivals"]:
        spread = f"{row['ms_min']:.1f}-{row['ms_max']:.1f}"
        lines.append(
            f"{row['name']:38}{row['ms']:9.1f}{row['relative']:15.2f}x{spread:>17}"
            f"{row['ns_a_parameter']:10.2f}{row['gb_s']:7.1f}{row['first_step_s']:15.2f}"
        )
    return "\n".join(lines)


def training(table):
    lines = [
        f"\n{table['layers']} layers of Dense(4096), batch of 4, {table['params']:,} float32 parameters, median of 3",
        f"{'':38}{'peak resident MB':>17}{'optimizer to end of first step, s':>35}{'step, s':>9}",
    ]
    for name, (peak, first, step) in table["rivals"].items():
        lines.append(f"{name:38}{peak:17,.0f}{first:35.1f}{step:9.2f}")
    return "\n".join(lines)


def loaded(medians):
    idle, busy = medians["idle"], medians["loaded"]
    return (
        f"\nAdamOffload with one of its cores kept busy by another process: {busy * 1e3:.1f} ms, "
        f"{busy / idle:.2f} times the {idle * 1e3:.1f} ms of an idle machine"
    )
