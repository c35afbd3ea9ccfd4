"""Tables, figures and costs: pure functions of finished results. Importing it is cheap; a figure imports matplotlib."""

from mixray.report.comparison import reference_arm
from mixray.report.compute import SearchCost, Work
from mixray.report.figures import curves_figure, held_out_figure, mixture_figures, sweep_figure
from mixray.report.key_pages import key_pages
from mixray.report.layout import count_text, new_table, print_report, titled
from mixray.report.metrics import choice_metrics, example_metrics, gains_over_targets
from mixray.report.page import PAGE_FILE, ProblemToVary, report_page
from mixray.report.realised import audit_table, forecast_lines
from mixray.report.resources import Devices, ModelsToTrain, ResourceForecast, Speed, cost_tables
from mixray.report.sweeps import SweptRun, mixture_names, moved, run_tables, sweep_tables
from mixray.report.tables import (
    cache_table,
    data_table,
    mixture_tables,
    proxy_table,
    runs_table,
    summary_lines,
)

__all__ = [
    "PAGE_FILE",
    "Devices",
    "ModelsToTrain",
    "ProblemToVary",
    "ResourceForecast",
    "SearchCost",
    "Speed",
    "SweptRun",
    "Work",
    "audit_table",
    "cache_table",
    "choice_metrics",
    "cost_tables",
    "count_text",
    "curves_figure",
    "data_table",
    "example_metrics",
    "forecast_lines",
    "gains_over_targets",
    "held_out_figure",
    "key_pages",
    "mixture_figures",
    "mixture_names",
    "mixture_tables",
    "moved",
    "new_table",
    "print_report",
    "proxy_table",
    "reference_arm",
    "report_page",
    "run_tables",
    "runs_table",
    "summary_lines",
    "sweep_figure",
    "sweep_tables",
    "titled",
]
