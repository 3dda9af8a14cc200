# SPDX-License-Identifier: Apache-2.0

"""Draws the timeline of a training step on a second memory:  python tests/second_memory/timeline.py docs

The device's products and the copies take the times of a pace. The host operation takes the time that it needs on this
machine. The stand-in logs all of them.
"""

# ruff: noqa: RUF001, the punctuation of Chinese

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from worker import Worker

from benchmarks import pictures

PRODUCT_MS, LINK_GB_S, MEMORY_GB_S = 3, 10, 1000
LAYERS, WIDTH, STEPS = 8, 2048, 12
LANES = ("device", "to_host", "host", "to_device")
LANE_OF = {"product": "device", "kernel": "device", "on_device": "device"}

TOP, LANE, BAR = 30, 58, 20
NAMES = {
    "en": {
        "step": "timeline of a training step",
        "device": "device: forward, backward, writes",
        "to_host": "copies to the host: gradients",
        "host": "host: Adam",
        "to_device": "copies to the device: differences",
    },
    "zh": {
        "step": "一个训练步的时间线",
        "device": "设备：前向、反向、写参数",
        "to_host": "拷贝到主机：梯度",
        "host": "主机：Adam",
        "to_device": "拷贝到设备：差值",
    },
}


def logged_step(
    level, dispatch_threads, folder, layers=LAYERS, width=WIDTH, product_ms=PRODUCT_MS, steps=STEPS, offload_ratio=1.0
):
    """Returns the fastest of some steps, after two that warm up: its milliseconds, and the busy times of each lane.

    A busy time is a pair of milliseconds from the start of the step.
    """
    log = Path(folder) / "log"
    pace = {"SECOND_MEMORY_PACE": f"{product_ms},{LINK_GB_S},{MEMORY_GB_S}"}
    worker = Worker("GPU", level, dispatch_threads, log, variables=pace)
    try:
        times = worker.run("timed.steps", layers, width, steps, offload_ratio)
    finally:
        worker.stop()
    start, end = min(times[2:], key=lambda step: step[1] - step[0])
    lanes = {lane: [] for lane in LANES}
    for line in log.read_text().splitlines():
        what, _, _, *interval = line.split()
        began, ended = map(int, interval)
        if start <= began and ended <= end and what != "host_to_host":
            lanes[LANE_OF.get(what, what)].append(((began - start) / 1e3, (ended - start) / 1e3))
    return (end - start) / 1e3, {lane: joined(busy) for lane, busy in lanes.items()}


def joined(intervals):
    """Returns intervals in order, with those that touch joined."""
    result = []
    for start, end in sorted(intervals):
        if result and start <= result[-1][1]:
            result[-1] = result[-1][0], max(end, result[-1][1])
        else:
            result.append((start, end))
    return result


def total(intervals):
    return sum(end - start for start, end in intervals)


def overlap(lanes):
    """Returns how long two lanes or more were busy at once, as the sum of all lanes beyond their union."""
    return sum(map(total, lanes.values())) - total(joined(interval for busy in lanes.values() for interval in busy))


def picture(milliseconds, lanes, language):
    """Returns an SVG with a line of bars for each lane."""
    names, y = NAMES[language], TOP
    scale = (pictures.WIDTH - 2 * pictures.MARGIN) / milliseconds
    parts = []
    for lane, busy in lanes.items():
        parts.append(pictures.text(pictures.MARGIN, y - 7, f"{names[lane]}, {total(busy):.0f} ms"))
        parts.append(f'<path class="others" opacity="0.15" d="{_bar(0, milliseconds * scale, y)}"/>')
        bars = "".join(_bar(start * scale, end * scale, y) for start, end in busy)
        parts.append(f'<path class="{"ours" if lane == "host" else "others"}" d="{bars}"/>')
        y += LANE
    y -= LANE - BAR - 20
    for tick in range(0, int(milliseconds) + 1, 20):
        x = round(pictures.MARGIN + tick * scale, 1)
        parts.append(f'<path class="line" d="M{x} {y}v5"/>')
        parts.append(pictures.text(x, y + 20, f"{tick} ms" if tick == 0 else str(tick), "small"))
    return pictures.document(y + 30, names["step"], parts, language)


def _bar(start, end, y):
    length = max(end - start, 0.3)
    return f"M{pictures.MARGIN + start:.1f} {y}h{length:.1f}v{BAR}h-{length:.1f}z"


def main(folder):
    with tempfile.TemporaryDirectory() as logs:
        milliseconds, lanes = logged_step("O0", 1, logs)
    for lane, busy in lanes.items():
        print(f"{lane:10}{total(busy):8.1f} ms")
    print(f"{'sum':10}{sum(map(total, lanes.values())):8.1f} ms, {overlap(lanes):.1f} ms of it at once")
    print(f"{'step':10}{milliseconds:8.1f} ms")
    for language, ending in (("en", ".svg"), ("zh", ".zh.svg")):
        (folder / f"timeline{ending}").write_text(picture(milliseconds, lanes, language), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
