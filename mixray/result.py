"""What a run has come to, read from its folder: the result of ``mixray.run`` and of ``mixray.show``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import StringIO
from typing import Literal, get_args

from rich.console import RenderableType

from mixray.cache import read_cache
from mixray.config import RunFile
from mixray.config.schema import Stage
from mixray.mixture import Mixture
from mixray.progress import Progress
from mixray.report import PAGE_FILE, cache_table, data_table, mixture_tables, print_report, proxy_table, summary_lines
from mixray.report.figures import losses_figure, weights_figure
from mixray.report.robust.results import RobustResults
from mixray.report.robust.tables import robust_report
from mixray.runs import MixtureRun, RobustRun, open_run
from mixray.search import baselines_of
from mixray.store import ModelMeta


@dataclass(frozen=True)
class Result:
    """What a run of either kind has come to. ``until``: the last stage whose results are shown."""

    run: MixtureRun | RobustRun
    until: Stage = "report"

    @property
    def kind(self) -> Literal["mixture", "robust comparison"]:
        """What the run searches for."""
        return self.run.kind

    @property
    def folder(self) -> str:
        """The run folder, a path or URI."""
        return self.run.location

    @property
    def config(self) -> RunFile:
        """The resolved run file."""
        return self.run.config

    @property
    def view_command(self) -> str:
        """What opens the run in MLflow."""
        return self.run.view_command

    @property
    def page(self) -> str | None:
        """Where the HTML report of a finished search for mixtures is, a path or URI."""
        is_written = isinstance(self.run, MixtureRun) and self.run.is_finished and self._shows("report")
        return f"{self.folder}/report/{PAGE_FILE}" if is_written else None

    @cached_property
    def mixtures(self) -> dict[str, Mixture]:
        """Name (a target, ``mean`` or ``worst``) -> mixture; empty before the stage ``mixture``."""
        return self.run.mixtures() if isinstance(self.run, MixtureRun) and self._shows("mixture") else {}

    @cached_property
    def comparison(self) -> RobustResults | None:
        """The results of a finished comparison of robust training, else None."""
        return self.run.results() if isinstance(self.run, RobustRun) and self.run.is_finished else None

    def tables(self, *, mechanisms: bool = False) -> list[RenderableType]:
        """Return the tables of the last stage that has results.

        ``mechanisms``: with the measures that explain a comparison of robust training.
        """
        if self.comparison is not None:
            return [robust_report(self.comparison, mechanisms=mechanisms)]
        if isinstance(self.run, RobustRun):
            return []
        run = self.run
        if self.mixtures:
            return mixture_tables(self.mixtures, baselines_of(run.config, run.available_tokens(), self.mixtures))
        stages = run.stages()
        if stages["cache"] and self._shows("cache"):
            rows, columns = run.load_cache()
            caches = {target: read_cache(run.storage, rows[target], "fit", columns[target]) for target in rows}
            return [
                cache_table(
                    target,
                    cache.losses(),
                    documents=len(cache.document_ids),
                    tokens=int(cache.counts.sum()),
                    unit=run.config.loss_unit,
                )
                for target, cache in caches.items()
            ]
        if stages["proxies"] and self._shows("proxies"):
            proxies = run.index.artifacts("proxy").items()
            by_source = {key.partition("/")[2]: ModelMeta.from_artifact(proxy) for key, proxy in proxies}
            return [proxy_table(by_source, unit=run.config.loss_unit)]
        if not stages["data"]:
            return []
        return [data_table({key.replace("/", " ", 1): counts for key, counts in run.index.counts.items()})]

    def _repr_html_(self) -> str:
        """Return the figures and tables of the mixtures, or the tables of another result, for notebooks."""
        run, parts = self.run, []
        if isinstance(run, MixtureRun) and self.mixtures:
            arm_shares = baselines_of(run.config, run.available_tokens(), self.mixtures)
            for name, mixture in self.mixtures.items():
                figures = [weights_figure(mixture, arm_shares[name], format="svg")]
                figures += [losses_figure(mixture, format="svg")] if mixture.loss else []
                parts += [figure.decode()[figure.index(b"<svg") :] for figure in figures]
                parts += [f"<p>{escape(line)}</p>" for line in summary_lines(mixture)]
                parts.append(mixture._repr_html_())
        else:
            text = StringIO()
            print_report(self.tables(), text)
            parts.append(f"<pre>{escape(text.getvalue())}</pre>")
        return f"<h4>{escape(self.folder)}</h4>" + "".join(parts)

    def to_dict(self) -> dict[str, object]:
        """Return the results as JSON values, for ``--json``."""
        fields: dict[str, object] = {"run": self.folder, "kind": self.kind, "next_stage": self.run.next_stage}
        if isinstance(self.run, MixtureRun):
            return fields | {"mixtures": mixtures_to_dict(self.mixtures)}
        return (json.loads(self.comparison.to_json()) if self.comparison is not None else {}) | fields

    def _shows(self, stage: Stage) -> bool:
        stages = get_args(Stage)
        return stages.index(stage) <= stages.index(self.until)


def mixtures_to_dict(mixtures: Mapping[str, Mixture]) -> dict[str, object]:
    """Return mixtures as JSON values, by name."""
    return {name: mixture.model_dump(mode="json", by_alias=True) for name, mixture in mixtures.items()}


def show(run_folder: str, progress: Progress | None = None) -> Result:
    """Read what a run of either kind has come to, and publish what MLflow lacks of it.

    Raises InputError where ``run_folder`` is not a valid run folder.
    """
    run = open_run(run_folder, progress)
    run.publish()
    return Result(run)
