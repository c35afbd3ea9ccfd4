"""Tables, figures and costs: pure functions of finished results. Importing it is cheap; a figure imports matplotlib."""

from mixray.report.comparison import Difference, difference, winner
from mixray.report.compute import SearchCost, Work
from mixray.report.figures import convergence_figure, curves_figure, losses_figure, weights_figure
from mixray.report.tables import (
    ArmShares,
    arms_table,
    closing_report,
    facts_table,
    mixture_tables,
    summary_lines,
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
    "curves_figure",
    "difference",
    "facts_table",
    "losses_figure",
    "mixture_tables",
    "summary_lines",
    "warning_lines",
    "weights_figure",
    "weights_table",
    "winner",
]
