"""Tables, figures and costs: pure functions of finished results. Importing it is cheap; a figure imports matplotlib."""

from mixray.report.comparison import Difference, difference, winner
from mixray.report.compute import SearchCost, Work
from mixray.report.figures import (
    convergence_figure,
    curves_figure,
    losses_figure,
    mixture_figures,
    path_figure,
    weights_figure,
)
from mixray.report.key_pages import key_pages
from mixray.report.layout import count_text, new_table, percent, print_report, share_text, titled
from mixray.report.stage_tables import ModelRow, cache_table, data_table, proxy_table, runs_table
from mixray.report.tables import (
    ArmShares,
    arms_table,
    closing_report,
    mixture_tables,
    summary_lines,
    sweep_tables,
    warning_lines,
    weights_table,
)

__all__ = [
    "ArmShares",
    "Difference",
    "ModelRow",
    "SearchCost",
    "Work",
    "arms_table",
    "cache_table",
    "closing_report",
    "convergence_figure",
    "count_text",
    "curves_figure",
    "data_table",
    "difference",
    "key_pages",
    "losses_figure",
    "mixture_figures",
    "mixture_tables",
    "new_table",
    "path_figure",
    "percent",
    "print_report",
    "proxy_table",
    "runs_table",
    "share_text",
    "summary_lines",
    "sweep_tables",
    "titled",
    "warning_lines",
    "weights_figure",
    "weights_table",
    "winner",
]
