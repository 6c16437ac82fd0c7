"""Pictures and a summary of results/image/fashion_mnist.json.

`python -m benchmarks.fashion_mnist_plots` draws results/image/fashion_mnist.png (Fréchet distance by evaluations and by
multiply-adds) and, where the benchmark's own pictures still are, results/image/fashion_mnist_samples.png. It prints
means over the seeds with ratios seed by seed, and writes them to results/image/fashion_mnist.txt.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image
from scipy.stats import ttest_1samp

from benchmarks.fashion_mnist import COPIED, RESULTS, WORK

LABELS = {
    "lfm4": "LFM, N = 4",
    "lfm2": "LFM, N = 2",
    "lfm4_paper": "LFM, N = 4, the paper's setting",
    "small": "control: one small network",
    "interflow": "InterFlow",
    "fm": "FM",
    "lfm4_copied": "LFM, N = 4, students not widened",
}
COLOURS = {
    "lfm4": "#0072b2",
    "lfm2": "#56b4e9",
    "lfm4_paper": "#cc79a7",
    "small": "#009e73",
    "interflow": "#d55e00",
    "fm": "#e69f00",
    "lfm4_copied": "#000000",
}
Point = tuple[str, str, int]  # method, teacher or students, network evaluations


def points(rows: list[dict[str, Any]]) -> dict[Point, list[dict[str, Any]]]:
    """Figures of each point, a seed each in their order; of two solvers the better one's mean."""
    found: dict[tuple[Point, str], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"]):
        for kind, entries in (("teacher", row["teacher"]), ("students", row["students"])):
            for entry in entries:
                found[(row["method"], kind, entry["nfe"]), entry["solver"]].append(entry)
    best: dict[Point, list[dict[str, Any]]] = {}
    for (point, _), entries in found.items():
        if point not in best or mean(entries) < mean(best[point]):
            best[point] = entries
    return best


def mean(entries: list[dict[str, Any]]) -> float:
    """Of the Fréchet distances."""
    return statistics.fmean(entry["frechet_distance"] for entry in entries)


def draw(best: dict[Point, list[dict[str, Any]]], floor: float, path: Path) -> None:
    """Both panels; bars reach from the least to the largest of the seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for axis, what, told in zip(
        axes, ("nfe", "multiply_adds"), ("network evaluations", "multiply-adds of a sample"), strict=True
    ):
        for method, label in LABELS.items():
            for kind, style, marker in (("teacher", "-", "o"), ("students", ":", "s")):
                entries = [
                    e for (m, k, _), e in sorted(best.items(), key=lambda item: item[0][2]) if (m, k) == (method, kind)
                ]
                if not entries:
                    continue
                x = [some[0][what] for some in entries]
                y = [mean(some) for some in entries]
                low = [m - min(e["frechet_distance"] for e in some) for m, some in zip(y, entries, strict=True)]
                high = [max(e["frechet_distance"] for e in some) - m for m, some in zip(y, entries, strict=True)]
                axis.errorbar(
                    x,
                    y,
                    [low, high],
                    fmt=style + marker,
                    color=COLOURS[method],
                    capsize=2,
                    markersize=5,
                    linewidth=1.4,
                    markerfacecolor="white" if kind == "students" else None,
                    label=label if kind == "teacher" or method == COPIED else None,
                )
        axis.set(xscale="log", yscale="log", xlabel=told, ylim=(1, None))
        axis.grid(alpha=0.25, which="both")
    axes[0].set_xticks([1, 2, 4, 8, 32], labels=["1", "2", "4", "8", "32"])
    axes[0].set_yticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
    axes[0].minorticks_off()
    axes[0].set_ylabel("Fréchet distance of classifier features")
    axes[1].text(0.98, 0.02, f"training images: {floor:.2f}", transform=axes[1].transAxes, ha="right", fontsize=8)
    axes[0].legend(fontsize=8, title="line: flow; dotted, open: its students", loc="lower left", title_fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_samples(folder: Path, path: Path) -> None:
    """Sheets of the first seed side by side: flows and students by few evaluations."""
    columns = {"flow, 4 evaluations (Euler)": "teacher_4", "students, 4": "students_4", "students, 2": "students_2"}
    methods = [m for m in LABELS if (folder / f"{m}_students_2.png").is_file()]
    figure, axes = plt.subplots(len(methods), 3, figsize=(9, 1.45 * len(methods)), layout="constrained")
    for row, method in zip(axes, methods, strict=True):
        for axis, (title, name) in zip(row, columns.items(), strict=True):
            axis.axis("off")
            file = folder / f"{method}_{name}.png"
            if file.is_file():
                axis.imshow(Image.open(file), cmap="gray", interpolation="nearest")
            if method == methods[0]:
                axis.set_title(title, fontsize=9)
        row[0].axis("on")
        row[0].set(xticks=[], yticks=[])
        row[0].set_ylabel(LABELS[method].replace(", the", ",\nthe").replace(": ", ":\n"), fontsize=8)
        row[0].spines[:].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    Image.open(path).convert("L").save(path, optimize=True)  # nothing in it has a colour


def summary(best: dict[Point, list[dict[str, Any]]]) -> str:
    """Means (least to largest of the seeds), ratios seed by seed, and p of a paired t-test of their logarithms."""
    head = f"{'':9}NFE  {'':33}{'solver':9}{'madds':>8}  {'Fréchet distance':26}"
    lines = [f"{head}{'over InterFlow':27}over the control"]
    for (method, kind, nfe), entries in sorted(best.items(), key=lambda item: (item[0][1], item[0][2], mean(item[1]))):
        values = [entry["frechet_distance"] for entry in entries]
        told = []
        for other in ("interflow", "small"):
            pairs = zip(values, best.get((other, kind, nfe), []), strict=False)
            ratios = [value / entry["frechet_distance"] for value, entry in pairs]
            told.append(" ".join(f"{ratio:.2f}" for ratio in ratios) + _significance(ratios))
        cost = f"{entries[0]['solver']:9}{entries[0]['multiply_adds'] / 1e6:6.0f} M"
        span = f"{mean(entries):6.2f} ({min(values):.2f} to {max(values):.2f})"
        lines.append(f"{kind:9}{nfe:3}  {LABELS[method]:33}{cost}  {span:26}{told[0]:27}{told[1]}".rstrip())
    return "\n".join(lines)


def _significance(ratios: list[float]) -> str:
    """p of a paired t-test of their logarithms against 0, the seeds being the pairs."""
    if len(ratios) < 2 or len(set(ratios)) == 1:
        return ""
    return f" p {ttest_1samp([math.log(ratio) for ratio in ratios], 0.0).pvalue:.3f}"


def main() -> None:
    """Draw and print."""
    results = json.loads((RESULTS / "fashion_mnist.json").read_text())
    best = points(results["rows"])
    draw(best, results["floor"]["frechet_distance"], RESULTS / "fashion_mnist.png")
    if (WORK / "pictures").is_dir():
        draw_samples(WORK / "pictures", RESULTS / "fashion_mnist_samples.png")
    table = summary(best)
    (RESULTS / "fashion_mnist.txt").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
