"""Figures of a federation: a picture of Dice by site and round, and the record with its ratios."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from bench.federation_curves import Dice

COLOURS = {"federated": "#1f6fb4", "alone": "#c2571a", "pooled": "#555555"}


@dataclass(frozen=True)
class Curves:
    """Dice by round, the start first."""

    federated: list[Dice]
    pooled: list[Dice]
    alone: dict[str, list[Dice]]  # by the site that learns alone; the last is judged at all sites

    @property
    def sites(self) -> list[str]:
        """Names in their order."""
        return list(self.alone)

    def lines(self) -> list[list[Dice]]:
        """Return all curves."""
        return [self.federated, self.pooled, *self.alone.values()]

    @property
    def local(self) -> float:
        """Mean of the models that learned alone, each over all sites' held-back cases."""
        return sum(one[-1]["mean"] for one in self.alone.values()) / len(self.alone)

    @property
    def at_home(self) -> float:
        """The same, each on its own site's held-back cases."""
        return sum(one[-1][site] for site, one in self.alone.items()) / len(self.alone)

    def ratios(self) -> dict[str, float]:
        """Return the differences that are promised."""
        federated = self.federated[-1]["mean"]
        return {
            "federated_minus_local_dice": federated - self.local,
            "federated_minus_pooled_dice": federated - self.pooled[-1]["mean"],
        }


def draw(curves: Curves, cases: dict[str, int], path: Path) -> None:
    """Write a picture: one panel a site."""
    figure, panels = plt.subplots(1, len(curves.sites), figsize=(3.4 * len(curves.sites), 3.6), sharey=True)
    rounds = range(len(curves.federated))
    lowest = min(one[site] for line in curves.lines() for one in line for site in curves.sites if site in one)
    for site, panel in zip(curves.sites, panels, strict=True):
        lines = {"federated": curves.federated, "alone": curves.alone[site], "pooled": curves.pooled}
        for name, line in lines.items():
            style = "--" if name == "pooled" else "-"
            panel.plot(rounds, [one[site] for one in line], style, marker="o", ms=4, color=COLOURS[name], label=name)
        panel.set_title(f"{site}: {cases[site]} cases to train on", fontsize=10)
        panel.set_xlabel("round")
        panel.set_ylim(max(0.0, floor(20 * lowest - 1) / 20), 1)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("Dice on the site's held-back cases")
    panels[0].legend(loc="lower right", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(curves: Curves) -> str:
    """Return the end of all curves as lines of text."""
    heads = [*curves.sites, "mean"]
    rows = {"start": curves.federated[0], "federated": curves.federated[-1], "pooled": curves.pooled[-1]}
    rows |= {f"{site} alone": line[-1] for site, line in curves.alone.items()}
    lines = [f"{'Dice at':14}" + "".join(f"{head:>9}" for head in heads)]
    lines += [f"{name:14}" + "".join(f"{row[head]:9.3f}" for head in heads) for name, row in rows.items()]
    return "\n".join(lines)
