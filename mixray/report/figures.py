"""Figures as PNG or SVG bytes: the same numbers give the same bytes. Drawn off screen, without pyplot.

Colours are Okabe and Ito's, distinct to colour-blind readers; arms and curves differ in marker or dashes as well.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mixray.mixture import Mixture
from mixray.numerics import NATS, TRAINING_TOKENS
from mixray.report.comparison import arms_best_first, held_out_losses
from mixray.report.tables import ArmShares
from mixray.store import HeldOutCurve

Format = Literal["png", "svg"]
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#595959"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#D55E00", "#56B4E9", "#000000")
MARKERS = ("o", "D", "s", "^", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
DOTS_PER_INCH = 150
MOST_PANELS = 6
"""Targets with a panel of their own in one figure."""


def mixture_figures(
    name: str, mixture: Mixture, trace: NDArray[np.float64], tolerance: float, baselines: ArmShares
) -> dict[str, bytes]:
    """Return the figures of one mixture as PNG files by name.

    ``trace``: float64, (rounds + 1, 2), the solver's loss and gap of every round, none where it has no gap;
    ``baselines``: arm -> shares.
    """
    figures = {
        f"{name}_weights.png": weights_figure(mixture, baselines),
        f"{name}_losses.png": losses_figure(mixture),
    }
    if len(trace):
        losses, gaps = trace.T.tolist()
        figures[f"{name}_solver.png"] = convergence_figure(
            gaps, losses, tolerance, solver=mixture.solver or "", unit=mixture.loss_unit
        )
    if mixture.path:
        figures[f"{name}_path.png"] = path_figure(mixture)
    return figures


def weights_figure(mixture: Mixture, arm_shares: ArmShares, *, format: Format = "png") -> bytes:
    """Draw each source's share as a bar with its 95 % interval, largest first, and the baselines' shares as marks."""
    sources = sorted(mixture.sources, key=lambda source: -mixture.weights[source])
    figure = _figure(7.0, 1.5 + 0.34 * len(sources))
    axes = figure.add_subplot()
    rows = range(len(sources))
    shares = [100 * mixture.weights[source] for source in sources]
    drawn = [axes.barh(rows, shares, height=0.62, color=BLUE, alpha=0.35, label="mixmin")]
    if mixture.interval:
        reach = [_reach(share, mixture.interval[name]) for share, name in zip(shares, sources, strict=True)]
        errors = list(zip(*reach, strict=True))
        style = {"fmt": "none", "ecolor": BLUE, "elinewidth": 1.6, "capsize": 3, "zorder": 4}
        drawn.append(axes.errorbar(shares, rows, xerr=errors, label="95 % interval", **style))
    others = [arm for arm in arm_shares if arm != "mixmin"]
    for place, arm in enumerate(others, start=1):
        values = [100 * arm_shares[arm][source] for source in sources]
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        style = {"linestyle": "none", "marker": marker, "markersize": 6, "color": colour, "markerfacecolor": "none"}
        drawn += axes.plot(values, rows, label=arm, markeredgewidth=1.6, zorder=3, **style)
    axes.set_yticks(rows, sources)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"share of {mixture.share_of} (%)")
    axes.set_title(f"Mixture for {', '.join(mixture.targets)}", loc="left")
    figure.legend(handles=drawn, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    _clean(axes, grid="x")
    return _bytes(figure, format)


def losses_figure(mixture: Mixture, *, format: Format = "png") -> bytes:
    """Draw each arm's loss as a dot, as the proxies' mixture predicted it and as its retrained model reached it."""
    realised = held_out_losses(mixture)
    panels = {
        "predicted: proxies' mixture, fit part": mixture.loss,
        "realised: retrained model, held-out part": realised,
    }
    panels = {title: losses for title, losses in panels.items() if losses}
    assert panels, "a mixture without losses has no figure of them"
    arms = arms_best_first(mixture)
    figure = _figure(8.0 if len(panels) > 1 else 4.5, 1.5 + 0.4 * len(arms))
    for place, (title, losses) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        _draw_losses(axes, arms, losses, mixture.loss_unit)
        axes.set_title(title, loc="left", fontsize="medium")
        if place > 1:
            axes.tick_params(labelleft=False)
    figure.suptitle(f"Loss on {', '.join(mixture.targets)}", x=0.01, ha="left")
    return _bytes(figure, format)


def convergence_figure(
    gaps: Sequence[float],
    losses: Sequence[float],
    tolerance: float,
    *,
    solver: str,
    unit: str = NATS,
    format: Format = "png",
) -> bytes:
    """Draw the solver's certified gap (log scale, with the tolerance it stops at) and its loss, one value a round."""
    figure = _figure(6.5, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    rounds = range(len(gaps))
    floor = tolerance * 1e-3  # a gap of zero has no logarithm
    upper.semilogy(rounds, [max(gap, floor) for gap in gaps], color=BLUE, marker="o", markersize=3.5)
    upper.axhline(tolerance, color=GREY, linestyle="--", linewidth=1)
    label = {"xytext": (4, 4), "textcoords": "offset points", "color": GREY, "fontsize": "small"}
    upper.annotate(f"tolerance {tolerance:g}", (0, tolerance), xycoords=("axes fraction", "data"), **label)
    upper.set_ylabel(f"certified gap\n({unit})")
    upper.set_title(f"Convergence of the {solver} solver", loc="left")
    lower.plot(rounds, losses, color=BLUE, marker="o", markersize=3.5)
    lower.set_ylabel(f"loss\n({unit})")
    lower.set_xlabel("round")
    lower.xaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        _clean(axes, grid="y")
    figure.align_ylabels()
    return _bytes(figure, format)


def curves_figure(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    *,
    title: str,
    unit: str = NATS,
    trained_on: str = TRAINING_TOKENS,
    format: Format = "png",
) -> bytes:
    """Draw losses against how much was trained on.

    ``curves``: name -> (so much of ``trained_on`` so far, loss in ``unit``), the first rising.
    """
    figure = _figure(7.0, 4.2)
    axes = figure.add_subplot()
    _draw_curves(axes, curves)
    axes.set_xlabel(trained_on)
    axes.set_ylabel(f"training loss ({unit})")
    axes.set_title(title, loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return _bytes(figure, format)


def held_out_figure(
    curves: Mapping[str, Mapping[str, HeldOutCurve]],
    *,
    unit: str = NATS,
    trained_on: str = TRAINING_TOKENS,
    format: Format = "png",
) -> bytes:
    """Draw the arms' losses on samples of held-out data while they train, a panel for each of the first targets.

    ``curves``: target -> arm -> curve. All arms are judged on the same rows, so that their distances mean something.
    """
    panels = dict(list(curves.items())[:MOST_PANELS])
    figure = _figure(7.5, 0.6 + 3.2 * len(panels))
    places = {arm: place for place, arm in enumerate(dict.fromkeys(arm for arms in panels.values() for arm in arms))}
    lines: dict[str, Any] = {}
    for axes, (target, arms) in zip(figure.subplots(len(panels), squeeze=False).ravel(), panels.items(), strict=True):
        lines |= _draw_curves(axes, {arm: each.curve for arm, each in arms.items()}, places, mark=True)
        sample = next(iter(arms.values()))
        axes.set_xlabel(trained_on)
        axes.set_ylabel(f"held-out loss\n({unit})")
        axes.set_title(f"{target}: {sample_text(sample)}", loc="left", fontsize="medium")
    figure.suptitle("Held-out loss of the arms while they train", x=0.01, ha="left")
    figure.legend(handles=list(lines.values()), loc="outside right upper", frameon=False, fontsize="small")
    return _bytes(figure, format)


def sample_text(sample: HeldOutCurve) -> str:
    """Return how much every point of a curve is measured on."""
    tokens = "" if sample.tokens == sample.rows else f", {sample.tokens:,} tokens"
    return f"a sample of {sample.rows:,} held-out rows{tokens}"


def path_figure(mixture: Mixture, *, format: Format = "png") -> bytes:
    """Draw shares against what they cost, from the optimum at the left to the prior. ``mixture.path`` is not empty."""
    assert mixture.path, "a mixture without a path has no figure of it"
    figure = _figure(7.5, 4.2)
    axes = figure.add_subplot()
    rises = [1000 * point.loss_rise for point in mixture.path]
    for place, source in enumerate(mixture.sources):
        colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
        shares = [100 * point.weights[source] for point in mixture.path]
        axes.plot(rises, shares, color=colour, linestyle=dashes, marker=".", linewidth=1.6, label=source)
    if mixture.choice:
        axes.axvline(1000 * mixture.choice.loss_rise, color=GREY, linewidth=1.2, linestyle=":", label="chosen")
    linear = max(rises) / 1000 or 1.0
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"predicted loss above the optimum's (thousandths, {mixture.loss_unit})")
    axes.set_ylabel(f"share of {mixture.share_of} (%)")
    axes.set_title(f"From the optimum to the prior: {', '.join(mixture.targets)}", loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    _clean(axes, grid="y")
    return _bytes(figure, format)


def sweep_figure(key: str, values: Sequence[object], mixtures: Sequence[Mixture], *, format: Format = "png") -> bytes:
    """Draw the loss of every arm against a setting of the run file: a dot for each run, and the mean of each value.

    The losses are those on held-out documents, or the predicted ones where not every run has retrained. ``values``: of
    the setting, one for each mixture.
    """
    figure = _figure(7.0, 4.2)
    axes = figure.add_subplot()
    different = list(dict.fromkeys(map(str, values)))
    numbers = {str(value): value for value in values if isinstance(value, int | float) and not isinstance(value, bool)}
    is_numeric = len(numbers) == len(different)
    places = {name: float(numbers[name]) if is_numeric else float(place) for place, name in enumerate(different)}
    if is_numeric and min(places.values()) > 0 and max(places.values()) > 5 * min(places.values()):
        axes.set_xscale("log")
    is_realised = all(map(held_out_losses, mixtures))
    losses = [held_out_losses(mixture) if is_realised else mixture.loss for mixture in mixtures]
    for number, arm in enumerate(dict.fromkeys(arm for of_run in losses for arm in of_run)):
        points = [(places[str(value)], of[arm]) for value, of in zip(values, losses, strict=True) if arm in of]
        means = [(x, float(np.mean([y for at, y in points if at == x]))) for x in sorted({x for x, _ in points})]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot(*zip(*points, strict=True), linestyle="none", marker=marker, color=colour, alpha=0.45)
        axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.6, label=arm)
    axes.set_xticks(list(places.values()), list(places), minor=False)
    axes.minorticks_off()
    axes.set_xlabel(key)
    axes.set_ylabel(f"{'held-out' if is_realised else 'predicted'} loss ({mixtures[0].loss_unit})")
    axes.set_title(f"Sweep for {', '.join(mixtures[0].targets)}", loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    _clean(axes, grid="y")
    return _bytes(figure, format)


# ------------------------------------------------------------------------------------------------------------ drawing


def _draw_curves(
    axes: Any,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    places: Mapping[str, int] | None = None,
    *,
    mark: bool = False,
) -> dict[str, Any]:
    """Draw losses over training tokens, and return the line of each name. ``places``: of the names among the colours;
    ``mark``: show where the points are."""
    from matplotlib.ticker import EngFormatter

    lines = {}
    for number, (name, points) in enumerate(curves.items()):
        place = number if places is None else places[name]
        colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]
        marker = MARKERS[place % len(MARKERS)] if mark else None
        tokens, losses = zip(*points, strict=True) if points else ((), ())
        style = {"color": colour, "linestyle": dashes, "linewidth": 1.6, "marker": marker, "markersize": 4}
        (lines[name],) = axes.plot(tokens, losses, label=name, **style)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlim(left=0)
    _clean(axes, grid="y")
    return lines


def _draw_losses(axes: Any, arms: Sequence[str], losses: Mapping[str, float], unit: str) -> None:
    best = min(losses, key=lambda arm: losses[arm])
    for row, arm in enumerate(arms):
        if arm in losses:
            colour = BLUE if arm == best else GREY
            axes.plot(losses[arm], row, marker="o" if arm == best else "D", color=colour, markersize=7)
            label = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": "small"}
            axes.annotate(f"{losses[arm]:.4f}", (losses[arm], row), color=colour, **label)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.7)
    axes.margins(x=0.18)
    axes.set_xlabel(f"{unit} (lower is better)")
    _clean(axes, grid="x")


def _figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _reach(share: float, interval: tuple[float, float]) -> tuple[float, float]:
    """Return how far the interval reaches below and above the share, in percent."""
    return max(0.0, share - 100 * interval[0]), max(0.0, 100 * interval[1] - share)


def _clean(axes: Any, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def _bytes(figure: Any, format: Format) -> bytes:
    """Return the figure's file, without dates, versions and random ids."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    metadata: dict[str, None] = {"Software": None} if format == "png" else {"Date": None, "Creator": None}
    with rc_context({"svg.hashsalt": "mixray"}):
        figure.savefig(buffer, format=format, metadata=metadata)
    return buffer.getvalue()
