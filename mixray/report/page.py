"""The report of a run as one HTML page, which needs no network: the answer first, then the reasons, figures to touch.

The page has the tables that the terminal shows, as HTML. Its figures are drawn by plotly in the browser. Where a
target's predictions are few enough to travel along, the page solves the convex problem again for limits that its reader
sets, and certifies the answer as the solvers do.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mixray.mixture import Mixture
from mixray.report.comparison import SEARCHED, arm_on, arms_best_first, difference, held_out_losses, reference_arm
from mixray.report.figures import MOST_PANELS, sample_text
from mixray.report.tables import ArmShares, closing_report, summary_lines
from mixray.store import HeldOutCurve

PAGE_FILE = "report.html"
MARKERS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "cross", "x")
NAMES_AT_LEFT = {"yaxis": {"type": "category"}}  # a name such as 2019 is no number
MOST_PREDICTIONS = 250_000
"""So many numbers, at most, travel with the page for each what-if panel: about 1.3 MB as text."""


HeldOutCurves = Mapping[str, Mapping[str, HeldOutCurve]]
"""Target -> arm -> the arm's losses on a sample of the target while it trained."""
PlotlyJson = dict[str, Any]
"""A trace, a layout or a part of one, with plotly's own keys."""


@dataclass(frozen=True)
class Chart:
    """What plotly draws, under a title and a note on how to read it."""

    title: str
    note: str
    data: list[PlotlyJson]
    layout: PlotlyJson


@dataclass(frozen=True)
class ProblemToVary:
    """The convex problem of one mixture, for the page to solve again.

    ``log_probs``: float64 (rows, sources), nats; ``row_weights``: float64 (rows,), such that the loss is in nats per
    token; ``limits``: source -> smallest and largest share.
    """

    log_probs: NDArray[np.float64]
    row_weights: NDArray[np.float64]
    limits: Mapping[str, tuple[float, float]]

    @property
    def fits(self) -> bool:
        """Whether the problem is small enough to travel with the page."""
        return self.log_probs.size <= MOST_PREDICTIONS


def report_page(
    run: str,
    mixtures: Mapping[str, Mixture],
    baselines: ArmShares,
    problems: Mapping[str, ProblemToVary],
    config: str,
    curves: Mapping[str, HeldOutCurves] | None = None,
) -> bytes:
    """Return the page.

    ``run``: its name; ``baselines``: arm -> shares; ``problems``: name of a mixture -> its problem, of those that may
    have a panel to vary it; ``config``: the resolved run file; ``curves``: name of a mixture -> its arms' curves.
    """
    import plotly
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("mixray.report", "page_template"), autoescape=True, trim_blocks=True)
    script = resources.files(plotly).joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    sections = [
        {
            "name": name,
            "answer": summary_lines(mixture)[:1],
            "details": summary_lines(mixture)[1:],
            "warnings": [warning.message for warning in mixture.warnings],
            "tables": _tables_html(closing_report(mixture, baselines)),
            "charts": [asdict(chart) for chart in _charts(mixture, baselines, (curves or {}).get(name, {}))],
            "what_if": _what_if(mixture, problems[name]) if name in problems and problems[name].fits else None,
        }
        for name, mixture in mixtures.items()
    ]
    page = environment.get_template("page.html").render(run=run, sections=sections, config=config, plotly=script)
    return page.encode()


# ------------------------------------------------------------------------------------------------------------- tables


def _tables_html(part: RenderableType) -> str:
    """Return the tables of a report as HTML, with their titles and captions. Lines of text stand elsewhere."""
    if not isinstance(part, Group):
        return ""
    renderables = part.renderables
    if not any(isinstance(inner, Table) for inner in renderables):
        return "".join(map(_tables_html, renderables))
    title, table, *captions = renderables
    assert isinstance(title, Text)
    assert isinstance(table, Table)
    below = "".join(f"<p class=caption>{html.escape(text.plain)}</p>" for text in captions if isinstance(text, Text))
    return f"<h3>{html.escape(title.plain)}</h3>{_table_html(table)}{below}"


def _table_html(table: Table) -> str:
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    heads = "".join(f"<th>{html.escape(str(column.header))}</th>" for column in table.columns)
    body = "".join(
        f"<tr{' class=best' if row.style == 'bold' else ''}>"
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        + "</tr>"
        for row, cells in zip(table.rows, rows, strict=True)
    )
    return f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


# ------------------------------------------------------------------------------------------------------------- charts


def _charts(mixture: Mixture, baselines: ArmShares, curves: HeldOutCurves) -> list[Chart]:
    charts = [_shares_chart(mixture, baselines)]
    if len(held_out_losses(mixture)) > 1:
        charts.append(_differences_chart(mixture))
    if any(worth is not None and worth.loss_rise > 0 for worth in mixture.worth.values()):
        charts.append(_worth_chart(mixture))
    if len(mixture.path) > 1:
        charts.append(_path_chart(mixture))
    several = len(mixture.targets) > 1
    charts += [
        _curves_chart(arms, f" on {target}" if several else "", mixture)
        for target, arms in list(curves.items())[:MOST_PANELS]
    ]
    return charts


def _shares_chart(mixture: Mixture, baselines: ArmShares) -> Chart:
    sources = sorted(mixture.sources, key=lambda source: mixture.weights[source])
    shares = [100 * mixture.weights[source] for source in sources]
    ends = [mixture.interval.get(source, (0.0, 0.0)) for source in sources]
    bars: PlotlyJson = {"type": "bar", "orientation": "h", "name": SEARCHED, "x": shares, "y": sources}
    if mixture.interval:
        bars["error_x"] = _reach(shares, [(100 * low, 100 * high) for low, high in ends])
    others = [arm for arm in baselines if arm != SEARCHED]
    marks = [
        {**_points(arm, [100 * baselines[arm][name] for name in sources], sources), "marker": _marker(place)}
        for place, arm in enumerate(others, start=1)
    ]
    return Chart(
        title=f"Share of {mixture.share_of}, %",
        note=f"Lines: 95 % interval over samples of the target's {mixture.sampled}s. A wide one means that many "
        "mixtures are as good.",
        data=[bars, *marks],
        layout={**NAMES_AT_LEFT, "xaxis": {"rangemode": "tozero"}, "height": 160 + 34 * len(sources)},
    )


def _differences_chart(mixture: Mixture) -> Chart:
    reference = reference_arm(mixture)
    arms = [arm for arm in reversed(arms_best_first(mixture)) if arm in held_out_losses(mixture) and arm != reference]
    assert reference is not None
    differences = [difference(mixture, arm, reference) for arm in arms]
    values = [each.value for each in differences]
    reach = _reach(values, [each.interval or (each.value, each.value) for each in differences])
    data = [{**_points("held-out", values, arms), "error_x": reach, "marker": _marker(0)}]
    if reference == arm_on(mixture, SEARCHED) and mixture.gain:
        baseline_of = {arm: mixture.retrain[arm].mixture or arm for arm in arms}
        predicted = [arm for arm in arms if baseline_of[arm] in mixture.gain]
        gains = [mixture.gain[baseline_of[arm]] for arm in predicted]
        values = [gain.estimate for gain in gains]
        reach = _reach(values, [gain.interval or (gain.estimate, gain.estimate) for gain in gains])
        data.append({**_points("predicted", values, predicted), "error_x": reach, "marker": _marker(1)})
    seeds = " and seeds" if any(len(result.nll_by_seed) > 1 for result in mixture.retrain.values()) else ""
    return Chart(
        title=f"Loss above that of {reference}, {mixture.loss_unit}",
        note=f"Right of zero: worse than {reference}. Lines: paired 95 % intervals over {mixture.sampled}s{seeds}.",
        data=data,
        layout={
            **NAMES_AT_LEFT,
            "scattermode": "group",  # two points of one arm stand side by side
            "xaxis": {"rangemode": "tozero", "zeroline": True},
            "height": 170 + 50 * len(arms),
        },
    )


def _worth_chart(mixture: Mixture) -> Chart:
    worth = {source: each for source, each in mixture.worth.items() if each is not None}
    sources = sorted(worth, key=lambda source: worth[source].loss_rise)
    rises = [worth[source].loss_rise for source in sources]
    ends = [worth[source].interval or (rise, rise) for source, rise in zip(sources, rises, strict=True)]
    bars = {"type": "bar", "orientation": "h", "x": rises, "y": sources, "error_x": _reach(rises, ends)}
    return Chart(
        title=f"What a source is worth, {mixture.loss_unit}",
        note="By how much the best predicted loss rises without it. Lines: 95 % intervals.",
        data=[bars],
        layout={**NAMES_AT_LEFT, "xaxis": {"rangemode": "tozero"}, "height": 130 + 30 * len(sources)},
    )


def _path_chart(mixture: Mixture) -> Chart:
    divergences = [point.divergence for point in mixture.path]
    areas = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "shares",
            "name": source,
            "x": divergences,
            "y": [100 * point.weights[source] for point in mixture.path],
        }
        for source in mixture.sources
    ]
    rises = [point.loss_rise for point in mixture.path]
    loss = {"type": "scatter", "mode": "lines+markers", "name": "loss", "x": divergences, "y": rises, "yaxis": "y2"}
    return Chart(
        title="From the optimum to the prior",
        note=f"Above: shares, %. Below: predicted loss above the optimum's, {mixture.loss_unit}. The axis is the "
        "divergence from the prior, which is at 0, in nats.",
        data=[*areas, {**loss, "showlegend": False}],
        layout={
            "height": 460,
            "xaxis": {"autorange": "reversed", "anchor": "y2"},
            "yaxis": {"domain": [0.36, 1], "range": [0, 100]},
            "yaxis2": {"domain": [0, 0.28], "rangemode": "tozero"},
        },
    )


def _curves_chart(arms: Mapping[str, HeldOutCurve], of_target: str, mixture: Mixture) -> Chart:
    sample = sample_text(next(iter(arms.values())))
    lines: list[PlotlyJson] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": arm,
            "x": [tokens for tokens, _ in each.curve],
            "y": [loss for _, loss in each.curve],
            "marker": {**_marker(place), "size": 6},
        }
        for place, (arm, each) in enumerate(arms.items())
    ]
    return Chart(
        title=f"Held-out loss{of_target} while the arms train, {mixture.loss_unit}",
        note=f"Every arm is judged on the same rows, {sample}. The axis is the {mixture.share_of} so far.",
        data=lines,
        layout={"height": 360, "xaxis": {"rangemode": "tozero"}},
    )


def _points(name: str, values: Sequence[float], labels: Sequence[str]) -> PlotlyJson:
    return {"type": "scatter", "mode": "markers", "orientation": "h", "name": name, "x": values, "y": labels}


def _marker(place: int) -> PlotlyJson:
    """Return a mark that differs from the others in shape too."""
    return {"size": 9, "symbol": MARKERS[place % len(MARKERS)]}


def _reach(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> PlotlyJson:
    """Return plotly's error bars from the values to the ends of their intervals."""
    above = [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    below = [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


# ------------------------------------------------------------------------------------------------------------ what if


def _what_if(mixture: Mixture, problem: ProblemToVary) -> PlotlyJson:
    """Return the problem as the page reads it: log-probabilities above each row's largest of a source that may have a
    share, float32, little-endian.

    That of every row is added to the loss again as a constant. The page divides by the largest likelihood of a source
    that its own limits allow.
    """
    allowed = [problem.limits.get(source, (0.0, 1.0))[1] > 0 for source in mixture.sources]
    best = problem.log_probs[:, allowed].max(axis=1)
    relative = (problem.log_probs - best[:, None]).astype("<f4")
    return {
        "sources": mixture.sources,
        "log_probs": base64.b64encode(relative.tobytes()).decode(),
        "weights": base64.b64encode(problem.row_weights.astype("<f8").tobytes()).decode(),
        "constant": float(-(problem.row_weights * best).sum()),
        "limits": [problem.limits.get(source, (0.0, 1.0)) for source in mixture.sources],
        "shares": [mixture.weights[source] for source in mixture.sources],
        "loss": mixture.loss[SEARCHED],
        "unit": mixture.loss_unit,
        "sampled": mixture.sampled,
    }
