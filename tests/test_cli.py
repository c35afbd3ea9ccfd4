"""The command line on stored runs, without a cluster: list, the latest run, interruption, unwritable output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from mixray import cli, pipeline
from mixray.config import RobustConfig, RunConfig, load_config
from mixray.errors import InputError, Interrupted
from mixray.runs import MixtureRun, RobustRun

JOBS = Path(__file__).parents[1] / "jobs"


def invoke(*arguments: str) -> None:
    cli.app(list(arguments), standalone_mode=False)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RobustRun, MixtureRun]:
    """Two runs in ./mixray-runs that have not begun to work, the second one started later."""
    monkeypatch.chdir(tmp_path)
    settings = {"storage": "./mixray-runs", "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db"}
    older = RobustRun.create(load_config(JOBS / "robust_digits.yaml", settings, kind=RobustConfig))
    newer = MixtureRun.create(load_config(JOBS / "quickstart.yaml", settings, kind=RunConfig))
    os.utime(tmp_path / "mixray-runs" / older.path / "config.yaml", (1_000_000_000, 1_000_000_000))
    return older, newer


def test_list_names_runs_the_latest_first(
    stored: tuple[RobustRun, MixtureRun], capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = stored
    invoke("list", "--json")
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["name"], run["kind"], run["next_stage"]) for run in runs] == [
        (newer.name, "mixture", "data"),
        (older.name, "robust comparison", "arms"),
    ]
    assert runs[1]["started"] == "2001-09-09 01:46"
    invoke("list")
    table = capsys.readouterr().out
    assert newer.name in table
    assert "unfinished: arms" in table


def test_show_takes_the_latest_run(stored: tuple[RobustRun, MixtureRun], capsys: pytest.CaptureFixture[str]) -> None:
    _, newer = stored
    invoke("show")
    shown = capsys.readouterr().out
    assert shown.startswith(f"mixture: {newer.location}")
    assert "unfinished: the stage data has no results yet" in shown


@pytest.mark.parametrize("arguments", [(), ("mixture.over=worst",)])
def test_solve_takes_the_latest_run(stored: tuple[RobustRun, MixtureRun], arguments: tuple[str, ...]) -> None:
    _, newer = stored
    with pytest.raises(InputError, match="no prediction cache yet") as caught:
        invoke("solve", *arguments)
    assert caught.value.where == newer.location


def test_solve_knows_a_uri_with_options_from_an_override() -> None:
    with pytest.raises(InputError, match="not a valid run folder"):
        invoke("solve", "s3://bucket/run?region=here", "mixture.over=worst")


@pytest.mark.parametrize("command", ["list", "show", "solve"])
def test_without_any_run_the_message_says_how_to_start_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"there is no run yet[^$]*mixray run FILE"):
        invoke(command)


def test_an_interrupted_run_ends_with_130_and_names_the_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted("retrain")

    monkeypatch.setattr(pipeline, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["mixray", "run", "file.yaml"])
    assert cli._guarded(cli.app) == 130
    assert "mixray: interrupted in retrain; the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ("{jobs}/quickstart.yaml {jobs}/robust_*.yaml", "name one run file"),
        (
            "{jobs}/quickstart.yaml sources.python.jsonl={{a,b}}.jsonl",
            "write 'sources.python.jsonl=[a.jsonl, b.jsonl]'",
        ),
        ("{jobs}/quickstart.yaml mixture.bounds.python=0.3", "write 'mixture.bounds.python=[0, 0.3]'"),
    ],
)
def test_what_a_shell_expands_is_answered_with_the_right_form(arguments: str, remedy: str) -> None:
    command = f"{sys.executable} -m mixray.cli plan {arguments.format(jobs=JOBS)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("stored")
def test_solve_names_the_section_of_a_limit() -> None:
    with pytest.raises(InputError) as caught:
        invoke("solve", "bounds.python=[0, 0.3]")
    assert caught.value.remedy == "did you mean 'mixture.bounds.python'?"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("show ", ["mixray-runs/runs/quickstart-*", "mixray-runs/runs/robust_digits-*"]),
        ("show mixray-runs/runs/q", ["mixray-runs/runs/quickstart-*"]),
        ("solve ./mix", ["./mixray-runs/runs/quickstart-*", "./mixray-runs/runs/robust_digits-*"]),
        ("show elsewhere", []),
        ("run ", ["jobs/other.yml", "mine.yaml"]),
        ("plan jobs/", ["jobs/other.yml"]),
        ("run mi", ["mine.yaml"]),
        ("config mixture.bo", ["mixture.bootstrap", "mixture.bounds"]),
    ],
)
@pytest.mark.usefixtures("stored")
def test_a_shell_completes_run_files_run_folders_and_keys(words: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text((JOBS / "quickstart.yaml").read_text())
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    (tmp_path / "broken.yaml").write_bytes(b"\xff")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "other.yml").write_text((JOBS / "robust_digits.yaml").read_text())
    line = f"mixray {words}"
    asked = {"_MIXRAY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    code = "from mixray.cli import app; app(prog_name='mixray')"
    environment = {**os.environ, **asked, "PYTHONPATH": str(JOBS.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    completions = done.stdout.split()
    assert len(completions) == len(expected), (completions, done.stderr)
    assert all(fnmatch(*pair) for pair in zip(completions, expected, strict=True)), completions


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_output_is_one_message() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mixray.cli", "config", "--schema"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "mixray: the output cannot be written: No space left on device\n"


def test_a_closed_pipe_is_no_error_message() -> None:
    command = f"{sys.executable} -m mixray.cli config --schema | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{\n", "")
