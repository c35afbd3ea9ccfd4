"""What a run will cost and what is wrong with its inputs, before anything is started: ``mixray plan``."""

from mixray.forecast.checking import CheckedInputs, check
from mixray.forecast.mixture_forecast import Forecast, forecast
from mixray.forecast.planning import input_warnings, plan
from mixray.forecast.robust_forecast import RobustForecast, forecast_comparison

__all__ = [
    "CheckedInputs",
    "Forecast",
    "RobustForecast",
    "check",
    "forecast",
    "forecast_comparison",
    "input_warnings",
    "plan",
]
