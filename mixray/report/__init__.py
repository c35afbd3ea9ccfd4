"""Tables, figures and costs: pure functions of finished results. Importing it is cheap; a figure imports matplotlib."""

from mixray.report.comparison import Difference, difference, winner
from mixray.report.compute import SearchCost, Work
from mixray.report.figures import convergence_figure, curves_figure, losses_figure, path_figure, weights_figure
from mixray.report.numbers import count_text, percent, share_text
from mixray.report.tables import (
    ArmShares,
    arms_table,
    closing_report,
    new_table,
    summary_lines,
    sweep_table,
    titled,
    warning_lines,
    weights_table,
)

__all__ = [
    "ArmShares",
    "Difference",
    "SearchCost",
    "Work",
    "arms_table",
    "closing_report",
    "convergence_figure",
    "count_text",
    "curves_figure",
    "difference",
    "losses_figure",
    "new_table",
    "path_figure",
    "percent",
    "share_text",
    "summary_lines",
    "sweep_table",
    "titled",
    "warning_lines",
    "weights_figure",
    "weights_table",
    "winner",
]
