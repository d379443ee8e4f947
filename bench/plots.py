"""Plots of a run: each way against the size of the frame, and how the latencies are spread."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from .hand_over import THIS, WAYS
from .sheet import SIZES

Results = list[dict[str, Any]]


def draw(report: dict[str, Any], directory: Path) -> list[Path]:
    """Writes what the report has numbers for, as SVG, and says which files."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = report["sections"]
    drawn: list[Path] = []

    def save(name: str, title: str) -> None:
        pyplot.title(title)
        pyplot.figtext(0.99, 0.01, f"{report['machine']['cpu']}, {report['machine']['date'][:10]}", ha="right", fontsize=7)
        pyplot.tight_layout()
        drawn.append(directory / f"{name}.svg")
        pyplot.savefig(drawn[-1], metadata={"Date": None})
        pyplot.close()

    if "hand-over" in parts:
        results = [result for result in parts["hand-over"]["results"] if "p50_us" in result and result["size"] in SIZES]
        paced = [result for result in results if result["pace"] == "30 fps"]
        _by_size(paced, "p50_us", "median, µs")
        save("latency", "Hand-over of a frame at 30 fps")
        _by_size(
            [result for result in paced if result["cpu_us_per_frame"]],
            "cpu_us_per_frame",
            "processor time, both ends, µs a frame",
        )
        save("cpu", "Processor time of a hand-over at 30 fps")
        _distribution([result for result in paced if result["size"] == "1080p"])
        save("distribution", "How the latencies are spread, 1080p, 30 fps")
    if "throughput" in parts:
        results = [result for result in parts["throughput"]["results"] if "p50_us" in result and result["pace"] == "flat out"]
        _by_size(results, "frames_per_s", "frames per second")
        save("throughput", "Flat out, nothing lost")
    return drawn


def _axes() -> Axes:
    return pyplot.subplots(figsize=(9, 5))[1]


def _style(way: str) -> dict[str, Any]:
    """The same in all plots."""
    number = list(WAYS).index(way)
    shade = pyplot.get_cmap("tab20")(2 * number % 20 + number // 10)  # the ten strong colours first
    return {"label": way, "color": shade, "linewidth": 3 if way == THIS else 1.2}


def _legend(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _by_size(results: Results, what: str, label: str) -> None:
    lines: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    sizes = list(SIZES)
    for result in results:
        lines[result["way"]].append((sizes.index(result["size"]), result[what]))
    axes = _axes()
    for way, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", **_style(way))
    axes.set_yscale("log")
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_ylabel(label)
    _legend(axes)


def _distribution(results: Results) -> None:
    axes = _axes()
    for result in results:
        axes.plot(result["percentiles_us"], [percent / 100 for percent in range(101)], **_style(result["way"]))
    axes.set_xscale("log")
    axes.set_xlabel("µs")
    axes.set_ylabel("share of the frames that take no longer")
    _legend(axes)
