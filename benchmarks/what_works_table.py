"""The rows of `benchmarks.what_works` as a table in markdown, a line for each variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

SEEDS = (0, 1, 2)
SHOWN = (4, 8, 16, 32)  # evaluations along the whole chain

Row = dict[str, Any]


def best_rate(searched: Sequence[Row]) -> float | None:
    """The learning rate of the lowest validation KL."""
    fine = [row for row in searched if "failed" not in row]
    return min(fine, key=lambda row: row["valid_kl"])["learning_rate"] if fine else None


def finals(rows: Sequence[Row]) -> list[Row]:
    """Rows at the rate chosen among those of the lowest seed that there are."""
    found: list[Row] = []
    for density, variant in dict.fromkeys((row["density"], row["variant"]) for row in rows):
        alike = [row for row in rows if (row["density"], row["variant"]) == (density, variant)]
        rate = best_rate([row for row in alike if row["seed"] == min(SEEDS)])
        found += [row for row in alike if row["learning_rate"] == rate and "failed" not in row]
    return found


def identity(row: Row) -> tuple[str, str, int, float]:
    return row["density"], row["variant"], row["seed"], row["learning_rate"]


class Entry(NamedTuple):
    """A line of the table: a variant's final rows."""

    variant: str
    rows: Sequence[Row]
    n_rates: int

    @property
    def kls(self) -> list[float]:
        """Of the seeds."""
        return [row["test_kl"] for row in self.rows]

    @property
    def of_blocks(self) -> list[float]:
        """KL of each block of test points, mean over seeds."""
        return [mean(block) for block in zip(*(row["test_kl_of_blocks"] for row in self.rows), strict=True)]

    def swd(self, evaluations: int) -> str:
        """The better of the methods, in the mean over seeds."""
        means = {}
        for method in ("euler", "midpoint"):
            values = [row["swd"].get(f"{method} {evaluations}") for row in self.rows]
            if None not in values:
                means[method] = mean(values)
        if not means:
            return "–"
        method = min(means, key=means.__getitem__)
        return f"{means[method]:.3f} {method[0]}"

    def told_apart(self, other: Entry) -> bool:
        """Whether the seeds' ranges do not overlap and the means differ by more than two standard errors.

        The error is that of the test points, paired, since all rows have the same. Of fewer seeds than all, ranges say
        nothing. Three numbers all below three others: a chance of 1 in 10 if nothing differs.
        """
        if min(len(self.rows), len(other.rows)) < len(SEEDS):
            return False
        apart = max(self.kls) < min(other.kls) or max(other.kls) < min(self.kls)
        differences = [a - b for a, b in zip(self.of_blocks, other.of_blocks, strict=True)]
        error = stdev(differences) / math.sqrt(len(differences))
        return apart and abs(mean(differences)) > 2 * error


COLUMNS = (
    "",
    "variant",
    "N",
    "KL, nats (range)",
    "not told apart from",
    *(f"SWD at {evaluations}" for evaluations in SHOWN),
    "multiply-adds an evaluation",
    "parameters",
    "learning rate",
    "training, s",
)
LEGEND = """\
KL(truth ‖ model): mean of the seeds at the learning rate that validation chose, and their range; ✱ marks fewer than
{seeds} seeds, † fewer than {rates} learning rates tried. "Not told apart from": numbers of the rows whose seeds' range
overlaps with this one's, or from which the test points' paired error (two standard errors) does not tell it, or that
have fewer seeds yet. Ranges of three seeds keep apart by chance in 1 of 10 pairs that do not differ. SWD: sliced
Wasserstein distance by evaluations of a network along the whole chain, by Euler (e) or midpoint (m), whichever is
better. Training: CPU seconds of one core, pushing included."""


def table(kept: Mapping[str, Any]) -> str:
    """Markdown, a table for each density, from what the JSON file holds so far."""
    parts = []
    for density, lowest in kept["floor"].items():
        rows = [row for row in kept["rows"] if row["density"] == density]
        parts += [f"### {density}", _table_of(rows, kept), f"SWD of held-out points from others: {lowest:.3f}."]
    return "\n\n".join([*parts, LEGEND.format(seeds=len(kept["seeds"]), rates=len(kept["learning_rates"]))])


def _table_of(rows: Sequence[Row], kept: Mapping[str, Any]) -> str:
    entries = sorted(_entries(rows), key=lambda entry: mean(entry.kls))
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for place, entry in enumerate(entries, start=1):
        alike = [i for i, other in enumerate(entries, start=1) if i != place and not entry.told_apart(other)]
        lines.append((str(place), *_cells(entry, alike, kept)))
    failed = sum("failed" in row for row in rows)
    note = f"\n\n{failed} runs failed." if failed else ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + note


def _entries(rows: Sequence[Row]) -> list[Entry]:
    final = finals(rows)
    found = []
    for variant in dict.fromkeys(row["variant"] for row in final):
        rates = {row["learning_rate"] for row in rows if row["variant"] == variant and row["seed"] == min(SEEDS)}
        found.append(Entry(variant, [row for row in final if row["variant"] == variant], len(rates)))
    return found


def _cells(entry: Entry, alike: Sequence[int], kept: Mapping[str, Any]) -> tuple[str, ...]:
    first, kls = entry.rows[0], entry.kls
    missing = "✱" * (len(kls) < len(kept["seeds"])) + "†" * (entry.n_rates < len(kept["learning_rates"]))
    return (
        f"{entry.variant} {missing}".strip(),
        str(first["settings"]["n_subflows"]),
        f"{mean(kls):.4f} ({min(kls):.4f}–{max(kls):.4f})",
        _spans(alike),
        *map(entry.swd, SHOWN),
        f"{first['multiply_adds']:,}",
        f"{first['parameters']:,}",
        f"{first['learning_rate']:g}",
        f"{mean(row['train_cpu_seconds'] for row in entry.rows):.1f}",
    )


def _spans(places: Sequence[int]) -> str:
    """1, 2, 3, 5 as "1–3, 5"."""
    spans: list[list[int]] = []
    for place in places:
        if spans and place == spans[-1][1] + 1:
            spans[-1][1] = place
        else:
            spans.append([place, place])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans) or "–"
