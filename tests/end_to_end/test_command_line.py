"""What a careless user types: exit code 2, and a message that says what, where, got, wanted and the remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import mixray
from mixray.cli import app
from mixray.errors import InputError
from tests.end_to_end.conftest import mixray as command
from tests.end_to_end.conftest import small_run

pytestmark = pytest.mark.usefixtures("ray_session")
"""What runs in this process takes that cluster; subprocesses start one of their own."""


def refused(*arguments: str | Path) -> str:
    """The message of a command that ends with exit code 2."""
    with pytest.raises(InputError) as caught:
        app([str(argument) for argument in arguments], standalone_mode=False)
    return str(caught.value)


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    path = small_run(folder)
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def break_the_middle(content: dict[str, Any]) -> None:
    """Cut a line in the middle of a source's file."""
    path = Path(content["sources"]["numbers"]["jsonl"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:75], lines[75][:9], *lines[76:]]))


CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "unknown key": (lambda c: c["proxy"].update(tokns=1), ["unknown key 'proxy.tokns'", "line", "'tokens'"]),
    "wrong type": (lambda c: c.update(window="wide"), ["window", "'wide'", "line"]),
    "negative tokens": (lambda c: c["retrain"].update(tokens=-5), ["retrain.tokens", "-5", "greater than 0"]),
    "no files": (lambda c: c["sources"]["animals"].update(jsonl="/nowhere/*.jsonl"), ["animals", "/nowhere/*.jsonl"]),
    "no such column": (lambda c: c["sources"]["animals"].update(text="body"), ["body", "text"]),
    "broken line": (break_the_middle, ["a line is not a JSON object", "sources.numbers.jsonl", "line 76"]),
    "a source that is a target": (
        lambda c: c["sources"]["animals"].update(c["targets"]["zoo"]),
        ["source animals", "target zoo", "dropped"],
    ),
    "not a tokenizer": (lambda c: c.update(tokenizer={"path": "/usr"}), ["tokenizer", "/usr"]),
    "impossible bounds": (
        lambda c: c["mixture"].update(bounds={name: [0.0, 0.2] for name in c["sources"]}),
        ["mixture.bounds", "0.6"],
    ),
    "unwritable storage": (lambda c: c.update(storage="/dev/null/x"), ["storage", "/dev/null/x"]),
    "no model": (lambda c: c["proxy"]["model"].update(architecture="gpt_nex"), ["gpt_nex", "gpt_neox"]),
    "bad tracking": (lambda c: c.update(tracking={"uri": "mlruns"}), ["tracking.uri", "mlruns"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_any_work(case: str, tmp_path: Path) -> None:
    edit, parts = CASES[case]
    run_file = edited(tmp_path, edit)
    message = refused("run", run_file)
    for part in parts:
        assert part in message, message
    assert not (tmp_path / "runs-here" / "artifacts").exists()


def test_the_command_prints_the_message_and_no_traceback(tmp_path: Path) -> None:
    done = command("run", small_run(tmp_path), "proxy.tokns=3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mixray: unknown key 'proxy.tokns'\n  where: the override proxy.tokns")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["run"], ["fly"], ["run", "x.yaml", "--fast"]])
def test_a_command_that_is_not_understood_ends_with_2(arguments: list[str]) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr


def test_more_gpus_than_the_cluster_has(tmp_path: Path) -> None:
    message = refused("run", small_run(tmp_path), "proxy.resources={cpus: 1, gpus: 1}")
    assert "proxy.resources" in message
    assert "GPU" in message
    assert not list((tmp_path / "runs-here").glob("artifacts/*/*/manifest.json"))


def test_a_source_shorter_than_a_window_and_a_target_with_nothing_held_out(tmp_path: Path) -> None:
    short = edited(tmp_path / "a", lambda c: c.update(window=100_000, proxy=c["proxy"] | {"tokens": 10**9}))
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"text": "a single document"}))
    lonely = edited(tmp_path / "b", lambda c: c["targets"].update(zoo={"jsonl": str(one)}))
    for run_file, parts in ((short, ["source animals", "window"]), (lonely, ["target zoo", "held_out"])):
        changes = ["retrain.tokens=1_000_000_000"] if run_file == short else []
        message = refused("run", run_file, *changes)
        assert all(part in message for part in parts), message


def test_two_sources_of_the_same_content_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_file = edited(tmp_path, lambda c: c["sources"].update(creatures=c["sources"]["animals"]))
    app(["run", str(run_file), "--until", "data"], standalone_mode=False)
    told = capsys.readouterr().err
    same = "warning: source animals and source creatures hold the same documents"
    # What a plan says is said before anything starts.
    assert told.index("warning: source animals has about") < told.index(same)


def test_a_corrupted_artifact_is_named_and_rebuilt_on_request(finished: Path, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", f"{finished}/.", str(tmp_path)], check=True)
    run_file = tmp_path / "run.yaml"
    storage = f"storage={tmp_path / 'runs-here'}"
    victim = next((tmp_path / "runs-here").glob("artifacts/column/*/*/fit-*.parquet"))
    victim.write_bytes(b"garbage")
    message = refused("run", run_file, storage)
    assert "column" in message
    assert "--rebuild" in message
    rebuilt = mixray.run(run_file, [storage], rebuild=True).mixtures
    (made_anew,) = victim.parents[1].glob(f"*/{victim.name}")
    assert made_anew.read_bytes() != b"garbage"
    original = json.loads((finished / "stdout.json").read_text())["mixtures"]
    assert {name: mixture.weights for name, mixture in rebuilt.items()} == {
        name: mixture["weights"] for name, mixture in original.items()
    }


def test_not_a_run_folder(tmp_path: Path) -> None:
    assert "this is not a valid run folder" in refused("show", tmp_path)
    assert "only 'mixture'" in refused_solve(tmp_path)


def refused_solve(tmp_path: Path) -> str:
    """``solve`` with a key that is not of ``mixture``."""
    folder = tmp_path / "store" / "runs" / "x-00000000"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(small_run(tmp_path).read_text())
    return refused("solve", folder, "seed=1")


def test_the_module_runs_as_the_command_does() -> None:
    shown = subprocess.run([sys.executable, "-m", "mixray.cli", "--help"], capture_output=True, text=True, check=True)
    assert all(command in shown.stdout for command in ("run", "plan", "solve", "show"))
