"""The commands that exchange mixtures with other tools: ``mixray export``, ``import`` and ``audit``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixray.commands.arguments import Json
from mixray.errors import InputError

if TYPE_CHECKING:
    from mixray.export import SourceAudit
    from mixray.mixture import Mixture
    from mixray.runs import MixtureRun

MixtureArgument = Annotated[
    str, typer.Argument(metavar="MIXTURE", help="a mixture file, of mixray or published by others, or a run folder")
]
Target = Annotated[str | None, typer.Option(help="of a run folder: which of its mixtures")]


def export_mixture(
    mixture: MixtureArgument,
    to: Annotated[str, typer.Option(metavar="TRAINER", help="the trainer, such as megatron; a wrong name lists all")],
    tokens: Annotated[int | None, typer.Option(help="of the training  [default: of the retraining]")] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", metavar="SOURCE=PATH", help="where the trainer finds a source")
    ] = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="the trainer draws rows of equal length, not whole documents")
    ] = False,
    target: Target = None,
    output: Annotated[str | None, typer.Option(help="the file to write  [default: stdout]")] = None,
    as_json: Json = False,
) -> None:
    """Write a mixture in a trainer's own format, converted to the unit that the trainer counts."""
    answer = _mixture(mixture, target)
    exported = answer.export(to, tokens=tokens, paths=_paths(map_ or []), packed=packed)
    _tell(exported.statement)
    _tell(exported.warnings, "warning: ")
    if output is not None:
        exported.save(output)
    if as_json:
        print(json.dumps(asdict(exported) | {"file": output}, ensure_ascii=False))
    elif output is None:
        sys.stdout.write(exported.text)


def import_swarm(
    swarm: Annotated[str, typer.Argument(metavar="SWARM", help="the name that the swarm is stored under")],
    ratios: Annotated[str, typer.Option(metavar="CSV", help="the mixture of every run, a column for each source")],
    metrics: Annotated[str, typer.Option(metavar="CSV", help="what every run reached, a column for each metric")],
    storage: Annotated[str, typer.Option(help="a storage folder or URI")] = "./mixray-runs",
    as_json: Json = False,
) -> None:
    """Import small models that were trained elsewhere on many mixtures, and what they reached.

    Columns may be named as Olmix, RegMix or Marin name them. Rows are joined by the run's id.
    """
    from mixray.export import read_swarm, store_swarm
    from mixray.store import Storage

    content, warnings = read_swarm(ratios, metrics)
    location = store_swarm(Storage(storage), swarm, content)
    _tell(warnings, "warning: ")
    counts = {"runs": len(content.runs), "sources": len(content.sources), "metrics": len(content.metrics)}
    if as_json:
        print(json.dumps({"swarm": location, "id": content.id, **counts}))
    else:
        print(", ".join(f"{number} {name}" for name, number in counts.items()) + f": {location}")


def audit(
    mixture: MixtureArgument,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="what a trainer read: CSV with the columns source and tokens, or a data set, JSONL or Parquet, with "
            "source and input_ids  [default: the arms that a run trained]",
        ),
    ] = None,
    target: Target = None,
    as_json: Json = False,
) -> None:
    """Compare the shares that were asked for with those that a training really read."""
    from mixray.export import audit_log, misplaced_share
    from mixray.report import audit_table, print_report

    audits = _arm_audits(_run(mixture)) if log is None else {log: audit_log(_mixture(mixture, target), log)}
    if as_json:
        content = {
            name: {"misplaced_share": misplaced_share(rows), "sources": [asdict(row) for row in rows]}
            for name, rows in audits.items()
        }
        print(json.dumps({"audits": content}, ensure_ascii=False))
    else:
        print_report(audit_table(name, rows, misplaced_share(rows)) for name, rows in audits.items())


def _arm_audits(run: MixtureRun) -> dict[str, list[SourceAudit]]:
    """Return the audit of every arm that a run has trained."""
    from mixray.export import audit_arm
    from mixray.store import ModelMeta

    sizes, audits = run.source_sizes(), {}
    for key, artifact in run.index.artifacts("arm").items():
        rows = audit_arm(ModelMeta.from_artifact(artifact), sizes)
        if rows is not None:
            audits[key.partition("/")[2]] = rows
    if not audits:
        raise InputError(
            "the run has no trained arm that says what it read",
            where=run.location,
            wanted="a run that has come past the stage 'retrain'",
            remedy="mixray run its run file again, or name a log with --log",
        )
    return audits


def _mixture(location: str, target: str | None) -> Mixture:
    """Return the mixture in a file, or the one of a run that ``target`` names."""
    from mixray.export import read_mixture

    if Path(location).is_file():
        if target is not None:
            raise InputError(
                "a file holds one mixture", where="--target", got=target, wanted="a run folder to choose in"
            )
        mixture, warnings = read_mixture(location)
        _tell(warnings, "warning: ")
        return mixture
    if location.endswith((".json", ".yaml", ".yml")):
        raise InputError("there is no such mixture file", where="MIXTURE", got=location, wanted="a file or run folder")
    mixtures = _run(location).mixtures()
    if target is None and len(mixtures) == 1:
        return next(iter(mixtures.values()))
    if target not in mixtures:
        raise InputError(
            "the run has no such mixture" if target else "the run has several mixtures, or none yet",
            where="--target",
            got=target,
            wanted=f"one of {', '.join(mixtures)}" if mixtures else "a run that has come past the stage 'mixture'",
        )
    return mixtures[target]


def _run(location: str) -> MixtureRun:
    from mixray.runs import MixtureRun

    return MixtureRun.open(location)


def _paths(pairs: Sequence[str]) -> dict[str, str]:
    """Return source -> path from texts ``source=path``."""
    paths: dict[str, str] = {}
    for pair in pairs:
        source, equals, path = pair.partition("=")
        if not (source and equals and path) or source in paths:
            raise InputError(
                "this is not a valid path of a source", where="--map", got=pair, wanted="SOURCE=PATH, once"
            )
        paths[source] = path
    return paths


def _tell(lines: Sequence[str], prefix: str = "") -> None:
    for line in lines:
        print(f"{prefix}{line}", file=sys.stderr)
