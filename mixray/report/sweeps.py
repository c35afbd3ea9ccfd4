"""The tables of a sweep: over a setting of one run's mixture, or over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType

from mixray.mixture import Mixture
from mixray.numerics import NATS
from mixray.report.comparison import SEARCHED, difference, held_out_losses, reference_arm
from mixray.report.layout import difference_text, new_table, share_text, small_text, titled

LARGEST = 3
"""Shares that are named beside a mixture."""


def sweep_tables(
    key: str, values: Sequence[object], mixtures: Sequence[Mapping[str, Mixture] | None]
) -> list[RenderableType]:
    """Return one table per mixture: its predicted loss and its largest shares for every value of a setting.

    ``mixtures``: per value, name -> mixture; None where no mixture satisfies the limits.
    """
    names = next((list(by_name) for by_name in mixtures if by_name is not None), [])
    return [
        _sweep_table(key, values, [None if by_name is None else by_name[name] for by_name in mixtures])
        for name in names
    ]


def _sweep_table(key: str, values: Sequence[object], mixtures: Sequence[Mixture | None]) -> RenderableType:
    table = new_table(key, "loss", "gap", "sources")
    table.add_column("largest shares", overflow="fold")
    title, unit = "", NATS
    for value, mixture in zip(values, mixtures, strict=True):
        if mixture is None:
            table.add_row(str(value), "", "", "", "no mixture satisfies the constraints")
            continue
        title, unit = ", ".join(mixture.targets), mixture.loss_unit
        effective = "" if mixture.effective_sources is None else f"{mixture.effective_sources:.1f}"
        loss, gap = f"{mixture.loss[SEARCHED]:.6f}", small_text(mixture.gap or 0.0)
        table.add_row(str(value), loss, gap, effective, _largest_shares(mixture))
    return titled(f"Sweep for {title}: predicted loss in {unit}", table, "sources: their effective number")


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep. ``settings``: key -> the run's value; ``mixtures``: name -> mixture; ``location``: its
    folder."""

    settings: Mapping[str, object]
    mixtures: Mapping[str, Mixture]
    location: str


def mixture_names(runs: Sequence[SweptRun]) -> list[str]:
    """Return the names of all mixtures of the runs."""
    return list(dict.fromkeys(name for run in runs for name in run.mixtures))


def run_tables(runs: Sequence[SweptRun]) -> list[RenderableType]:
    """Return one table per mixture, with a row for every run that has it: its held-out losses, and how far it moves."""
    return [_run_table(name, [run for run in runs if name in run.mixtures]) for name in mixture_names(runs)]


def _run_table(name: str, runs: Sequence[SweptRun]) -> RenderableType:
    mixtures = [run.mixtures[name] for run in runs]
    reference = reference_arm(mixtures[0]) or SEARCHED
    arms = dict.fromkeys(arm for mixture in mixtures for arm in held_out_losses(mixture) if arm != reference)
    table = new_table(*runs[0].settings, "predicted", reference, *(f"{arm} minus {reference}" for arm in arms), "moved")
    table.add_column("largest shares", overflow="fold")
    for run, mixture in zip(runs, mixtures, strict=True):
        held_out = held_out_losses(mixture)
        differences = [_difference_text(mixture, arm, reference) for arm in arms]
        table.add_row(
            *map(str, run.settings.values()),
            f"{mixture.loss[SEARCHED]:.4f}" if SEARCHED in mixture.loss else "",
            f"{held_out[reference]:.4f}" if reference in held_out else "",
            *differences,
            share_text(moved(mixture, mixtures[-1])),
            _largest_shares(mixture),
        )
    return titled(
        f"Sweep for {', '.join(mixtures[0].targets)}: loss in {mixtures[0].loss_unit}",
        table,
        f"{reference}: its loss on held-out {mixtures[0].sampled}s; moved: what part of the mixture is elsewhere "
        "than in the last row; [..]: 95 % interval",
    )


def _difference_text(mixture: Mixture, arm: str, reference: str) -> str:
    held_out = held_out_losses(mixture)
    if arm not in held_out or reference not in held_out:
        return ""
    result = difference(mixture, arm, reference)
    interval = "" if result.interval is None else f" [{result.interval[0]:+.4f}, {result.interval[1]:+.4f}]"
    return difference_text(result.value) + interval


def moved(mixture: Mixture, other: Mixture) -> float:
    """Return the total variation distance of two mixtures, from 0 (the same shares) to 1 (no source in common)."""
    sources = {*mixture.weights, *other.weights}
    return sum(abs(mixture.weights.get(name, 0.0) - other.weights.get(name, 0.0)) for name in sources) / 2


def _largest_shares(mixture: Mixture) -> str:
    largest = sorted(mixture.weights.items(), key=lambda item: -item[1])[:LARGEST]
    return ", ".join(f"{source} {share_text(share)}" for source, share in largest)
