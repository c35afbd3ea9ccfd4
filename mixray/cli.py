"""The ``mixray`` command: parse, call, print.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 2 the user's input is wrong, 130 interrupted,
1 anything else.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

import typer

from mixray.commands import exchange
from mixray.commands.arguments import (
    Address,
    FilePath,
    Json,
    Mechanisms,
    Overrides,
    RunFolder,
    complete_key,
    complete_run_folder,
)
from mixray.config import RunFile, load_config
from mixray.config.schema import Stage
from mixray.errors import CorruptedArtifactError, InputError, MixrayError
from mixray.interrupts import EXIT_CODE, end_at_once, ending_soon_after_interrupts

app = typer.Typer(
    name="mixray",
    help="Find the share of each data source that a model should be trained on, with a certified accuracy, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"mixray {version('mixray')}")
        raise typer.Exit()


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    file: FilePath,
    overrides: Overrides = None,
    address: Address = None,
    until: Annotated[Stage, typer.Option(help="the last stage to run")] = "report",
    rebuild: Annotated[bool, typer.Option("--rebuild", help="compute corrupted artifacts again")] = False,
    mechanisms: Mechanisms = False,
    as_json: Json = False,
) -> None:
    """Run a run file, wholly or up to a stage.

    Results that an earlier run has stored are used again, so the same command also continues an interrupted run.

    A run file with sources and targets searches for mixtures; one with data and arms compares robust training methods.

    At the address of a cluster's dashboard the run is a job: its output is shown here, and Ctrl-C leaves it running.
    """
    with _interrupts_named():
        if (place := _dashboard(address)) is not None:
            flags = {"--rebuild": rebuild, "--mechanisms": mechanisms, "--json": as_json}
            options = ["--until", until, *(flag for flag, is_set in flags.items() if is_set)]
            configs = [load_config(file, overrides or [], kind=RunFile)]
            raise typer.Exit(_run_as_job(place, "run", file, overrides or [], options, configs))
        from mixray import pipeline
        from mixray.progress import open_progress

        result = pipeline.run(
            file, overrides or [], address=address, until=until, rebuild=rebuild, progress=open_progress()
        )
    if as_json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        _print(*result.tables(mechanisms=mechanisms))
        print(f"run folder: {result.folder}")
        if result.page:
            print(f"report: {result.page}")
        if result.run.is_published:
            print(f"open it in MLflow: {result.view_command}")
        else:
            print(f"MLflow lacks it; mixray show {shlex.quote(result.folder)} publishes it")


@app.command()
def plan(
    file: FilePath,
    overrides: Overrides = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="training tokens (or rows) per second of one retraining worker or robust arm; by default measured "
            "in a few steps on this machine",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="GPUs that work at the same time (CPU cores, if the run file uses no GPU)"),
    ] = None,
    device_memory: Annotated[
        float | None,
        typer.Option(min=1e-3, help="memory of one GPU (of the machine, if the run file uses no GPU), in GB"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a run file and its data, and forecast the cost.

    The forecast covers time, GPU-hours, memory and disk. Nothing is trained but a few steps that measure the speed.
    """
    from mixray.forecast import plan as make_plan

    forecast = make_plan(
        file,
        overrides or [],
        tokens_per_second=tokens_per_second,
        devices=devices,
        device_memory_gb=device_memory,
    )
    if as_json:
        print(json.dumps(forecast.to_dict(), allow_nan=False))
    else:
        _print(*forecast.tables())


@app.command()
def sweep(
    file: FilePath,
    overrides: Overrides = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Run every combination of the settings that are lists, such as seed=[0,1] proxy.tokens=[20_000,80_000].

    Each is a run of its own, and they share what they can. A setting that takes a list needs a list of lists. The
    sweep's folder has a table and figures.

    At the address of a cluster's dashboard the sweep is a job: its output is shown here, and Ctrl-C leaves it running.
    """
    from mixray.sweeps import load_sweep
    from mixray.sweeps import sweep as run_sweep

    with _interrupts_named():
        if (place := _dashboard(address)) is not None:
            configs, _ = load_sweep(file, overrides or [])
            options = ["--json"] if as_json else []
            raise typer.Exit(_run_as_job(place, "sweep", file, overrides or [], options, configs))
        result = run_sweep(file, overrides or [], address=address)
    if as_json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        _print(*result.tables())
        print(f"sweep folder: {result.location}")


@app.command()
def solve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_FOLDER] [mixture.KEY=VALUE]...",
            help="a run (by default the latest in ./mixray-runs), and the settings to change",
            autocompletion=complete_run_folder,
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="solve for this target only")] = None,
    as_json: Json = False,
) -> None:
    """Solve again with other settings of the mixture.

    The predictions of an earlier run are used, so this takes seconds and needs no cluster. One setting may be a range:
    mixture.bounds.python=[0,0.1..0.9] solves for 0.1, 0.2, ... 0.9; intervals take mixture.bootstrap=200 beside it.
    """
    from mixray.progress import open_progress
    from mixray.report import mixture_tables, sweep_tables
    from mixray.runs import MixtureRun, latest_run_folder
    from mixray.search import Sweep, baselines_of, solve_again

    overrides = list(arguments or [])
    # A URI may contain "=", in its options.
    named = bool(overrides) and ("=" not in overrides[0] or "://" in overrides[0].partition("=")[0])
    run_folder = overrides.pop(0) if named else latest_run_folder()
    source = MixtureRun.open(run_folder, open_progress())
    source.publish()
    solutions = solve_again(source, overrides, target)
    if isinstance(solutions, Sweep):
        if as_json:
            _print_sweep(source.location, solutions)
        else:
            _print(*sweep_tables(solutions.key, solutions.values, solutions.mixtures))
    elif as_json:
        _print_json(source.location, solutions)
    else:
        _print(*mixture_tables(solutions, baselines_of(source.config, source.available_tokens(), solutions)))


@app.command()
def show(run_folder: RunFolder = "", mechanisms: Mechanisms = False, as_json: Json = False) -> None:
    """Show the results of a run.

    For mixtures: shares with intervals, the gap, the loss of every arm, warnings. For a comparison of robust training
    methods: the accuracy of every arm.
    """
    from mixray.progress import open_progress
    from mixray.result import show as read_result
    from mixray.runs import latest_run_folder

    result = read_result(run_folder or latest_run_folder(), open_progress())
    if as_json:
        print(json.dumps(result.to_dict(), allow_nan=False))
        return
    print(f"{result.kind}: {result.folder}\n")
    _print(*result.tables(mechanisms=mechanisms))
    if (stage := result.run.next_stage) is not None:
        print(f"unfinished: the stage {stage} has no results yet; mixray run of the same file continues")
    print(f"open it in MLflow: {result.view_command}")


@app.command(name="list")
def list_stored(
    storage: Annotated[str, typer.Argument(metavar="STORAGE", help="a storage folder or URI")] = "./mixray-runs",
    as_json: Json = False,
) -> None:
    """List the runs in a storage folder, the latest first."""
    from mixray.report import runs_table
    from mixray.runs import list_runs

    rows = [
        (run.name, run.kind, run.next_stage or "", started.strftime("%Y-%m-%d %H:%M"), run.location)
        for run, started in list_runs(storage)
    ]
    if as_json:
        keys = ("name", "kind", "next_stage", "started", "run")
        print(json.dumps({"runs": [dict(zip(keys, row, strict=True)) for row in rows]}))
    else:
        _print(runs_table([row[:4] for row in rows]))


@app.command()
def verify(
    location: Annotated[
        str,
        typer.Argument(
            metavar="[RUN_FOLDER|STORAGE]",
            help="a run, or a storage folder or URI",
            autocompletion=complete_run_folder,
        ),
    ] = "./mixray-runs",
    as_json: Json = False,
) -> None:
    """Read every stored artifact, and name those that are truncated or altered.

    Of a run, these are its data, models and predictions. mixray run FILE --rebuild makes what is corrupted anew. Files
    among a storage's artifacts that are not mixray's are named and left alone.
    """
    from mixray.runs import verify_stored

    checked, stored_bytes, faults = 0, 0, list[str]()
    outcomes, strays = verify_stored(location)
    for outcome in outcomes:
        checked += 1
        if isinstance(outcome, InputError):
            faults.append(f"{outcome.where}: {outcome.got}")
        else:
            stored_bytes += sum(record.bytes for record in outcome.files.values())
    if as_json:
        print(json.dumps({"artifacts": checked, "bytes": stored_bytes, "corrupted": faults, "not_mixray": strays}))
    else:
        for stray in strays:
            print(f"not mixray's, left alone: {stray}")
        print(f"{checked - len(faults):,} of {checked:,} artifacts are whole, {stored_bytes / 1e6:,.1f} MB")
    if faults:
        raise CorruptedArtifactError(
            "artifacts are corrupted",
            got="\n".join(["", *faults]),
            remedy="mixray run FILE --rebuild makes those of its run anew",
        )


@app.command()
def config(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="a key of the run file, such as mixture.bounds  [default: all keys]",
            autocompletion=complete_key,
        ),
    ] = "",
    schema: Annotated[bool, typer.Option("--schema", help="print the JSON schema of run files, for editors")] = False,
    as_json: Json = False,
) -> None:
    """Explain the keys of a run file: their types, defaults and meaning."""
    from mixray.config.fields import json_schema, key_references
    from mixray.report import key_pages

    if schema:
        print(json.dumps(json_schema(), indent=1))
        return
    references = key_references(key)
    if as_json:
        print(json.dumps({kind: asdict(reference) for kind, reference in references.items()}))
    else:
        _print(*key_pages(references))


@app.command()
def init(
    file: Annotated[str, typer.Argument(metavar="FILE", help="the run file to write")] = "run.yaml",
    robust: Annotated[bool, typer.Option("--robust", help="write one that compares robust training methods")] = False,
    as_json: Json = False,
) -> None:
    """Write a commented run file that runs as it is. An existing file is never overwritten."""
    from mixray.config.loading import write_starter

    write_starter(file, "robust" if robust else "mixture")
    if as_json:
        print(json.dumps({"file": file}))
    else:
        print(f"wrote {file}; next: mixray plan {shlex.quote(file)}")


app.command(name="export")(exchange.export_mixture)
app.command(name="import")(exchange.import_swarm)
app.command(name="audit")(exchange.audit)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def watch(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="e.g. ray start --address=HEAD:6379 --block")
    ],
) -> None:
    """Run a machine's Ray node until the cloud gives notice that it takes the machine away.

    The node then ends in order: Ray places nothing more on it, trainings save their state and go on elsewhere. Notices
    of AWS and Google are understood. cluster.yaml starts its workers so.
    """
    from mixray.notices import run_until_notice

    status = run_until_notice(command, lambda notice: print(f"mixray: {notice}", file=sys.stderr, flush=True))
    raise typer.Exit(128 - status if status < 0 else status)


@contextmanager
def _interrupts_named() -> Iterator[None]:
    """After Ctrl-C, say in which stage it came and that the same command continues, and end with its exit code."""
    try:
        yield
    except KeyboardInterrupt as error:
        message = str(error) or "interrupted before the first stage; the same command continues"
        print(f"mixray: {message}", file=sys.stderr)
        raise typer.Exit(EXIT_CODE) from None


def _dashboard(address: str | None) -> str | None:
    """Return the address of a cluster's dashboard where that is what the user names, else None."""
    place = address or os.environ.get("RAY_ADDRESS", "")
    return place if place.startswith(("http://", "https://")) else None


def _run_as_job(
    address: str,
    command: str,
    file: str,
    overrides: list[str],
    options: list[str],
    configs: Sequence[RunFile],
) -> int:
    """Give a command as a job; print its output, or, of one that prints an object, this alone to stdout."""
    from mixray.cluster.submitting import JobCommand, run_as_job

    as_json = "--json" in options
    pieces: list[str] = []

    def write(text: str) -> None:
        pieces.append(text)
        print(text, end="", file=sys.stderr if as_json else sys.stdout, flush=True)

    status = run_as_job(address, JobCommand(command, file, overrides, options, configs), write)
    if as_json and status == 0:
        print("".join(pieces).splitlines()[-1])
    return status


def _print_json(folder: str, mixtures: Any) -> None:
    print(json.dumps({"run": folder, "mixtures": _files(mixtures)}, allow_nan=False))


def _print_sweep(folder: str, sweep: Any) -> None:
    steps = [
        {"value": value, "mixtures": None if mixtures is None else _files(mixtures)}
        for value, mixtures in zip(sweep.values, sweep.mixtures, strict=True)
    ]
    print(json.dumps({"run": folder, "key": sweep.key, "sweep": steps}, allow_nan=False))


def _files(mixtures: Any) -> dict[str, Any]:
    return {name: mixture.model_dump(mode="json", by_alias=True) for name, mixture in mixtures.items()}


def _print(*parts: Any) -> None:
    from mixray.report import print_report

    print_report(parts)


def _guarded(command: Callable[[], None]) -> int:
    try:
        code = _exit_code(command)
        sys.stdout.flush()
    except MixrayError as error:
        print(f"mixray: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        if error.errno == errno.ENOSPC:
            print(f"mixray: the output cannot be written: {error.strerror}", file=sys.stderr)
        # What is left in the buffer would fail once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _exit_code(command: Callable[[], None]) -> int:
    """Call a Typer application, which ends by SystemExit."""
    try:
        command()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def main() -> None:
    """The console script."""
    with ending_soon_after_interrupts():
        code = _guarded(app)
        if code == EXIT_CODE:
            end_at_once()
    sys.exit(code)


if __name__ == "__main__":
    main()
