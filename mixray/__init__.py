"""Which share of each data source should a model be trained on? A certified answer, on Ray.

Importing this is cheap: ray, torch and mlflow are imported by what needs them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mixray.errors import CorruptedArtifactError, InputError, MixrayError, StageError
from mixray.mixture import Mixture, load_mixture

if TYPE_CHECKING:
    __version__: str
    from mixray.cluster.dataset import open_cache
    from mixray.config import RunConfig, load_config
    from mixray.forecast import plan
    from mixray.pipeline import run
    from mixray.result import Result, show
    from mixray.simplex import Solution, solve
    from mixray.sweeps import sweep

__all__ = [
    "CorruptedArtifactError",
    "InputError",
    "MixrayError",
    "Mixture",
    "Result",
    "RunConfig",
    "Solution",
    "StageError",
    "load_config",
    "load_mixture",
    "open_cache",
    "plan",
    "run",
    "show",
    "solve",
    "sweep",
]

_HOMES = {
    "Result": "result",
    "RunConfig": "config",
    "Solution": "simplex",
    "load_config": "config",
    "open_cache": "cluster.dataset",
    "plan": "forecast",
    "run": "pipeline",
    "show": "result",
    "solve": "simplex",
    "sweep": "sweeps",
}


def __getattr__(name: str) -> Any:
    """Load public names on first use (PEP 562), the version among them."""
    if name == "__version__":
        return version("mixray")
    if name not in _HOMES:
        raise AttributeError(f"module 'mixray' has no attribute {name!r}")
    value = getattr(import_module(f"mixray.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
