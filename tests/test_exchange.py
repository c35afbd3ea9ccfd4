"""``mixray export``, ``import`` and ``audit`` as commands: what they print where, what they write, and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixray import cli
from mixray.errors import InputError
from mixray.mixture import Mixture

SIZES = {"web": {"documents": 10, "tokens": 20_000}, "code": {"documents": 100, "tokens": 20_000}}


def invoke(*arguments: str) -> None:
    cli.app(list(arguments), standalone_mode=False)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Mixture.from_weights({"web": 0.5, "code": 0.5}, SIZES).save("mixture.json")


def test_the_file_goes_to_stdout_and_what_it_means_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    invoke("export", "mixture.json", "--to", "megatron-file", "--map", "web=w", "--map", "code=c=1")
    out, err = capsys.readouterr()
    assert out == "0.5 w 0.5 c=1\n"
    assert "each number is a share of training tokens" in err


def test_the_file_is_written_where_asked(capsys: pytest.CaptureFixture[str]) -> None:
    invoke("export", "mixture.json", "--to", "trl", "--map", "web=w", "--map", "code=c", "--output", "trl.yaml")
    out, err = capsys.readouterr()
    assert out == ""
    assert "warning: TRL keeps the first rows" in err
    assert "fraction: 0.090909090909091" in Path("trl.yaml").read_text()
    invoke("export", "mixture.json", "--to", "levanter", "--packed", "--json")
    assert json.loads(capsys.readouterr().out)["numbers"] == {"web": 0.5, "code": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "megatrn"], "did you mean 'megatron'"),
        (["--to", "trl", "--map", "web=w"], "none for code"),
        (["--to", "trl", "--map", "web"], "not a valid path of a source"),
        (["--to", "trl", "--map", "web=w", "--map", "web=v"], "not a valid path of a source"),
        (["--to", "axolotl", "--map", "web=w", "--map", "code=c", "--tokens", "80000"], "web 2 times, code 2 times"),
        (["--to", "json", "--target", "news"], "a file holds one mixture"),
    ],
)
def test_wrong_exports_write_nothing(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        invoke("export", "mixture.json", *arguments, "--output", "out.txt")
    assert not Path("out.txt").exists()


def test_a_swarm_is_imported_by_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ratios.csv").write_text("run,web,code\n1,0.5,0.5\n2,0.2,0.8\n")
    Path("metrics.csv").write_text("run,loss\n2,3.0\n1,2.0\n")
    invoke("import", "first", "--ratios", "ratios.csv", "--metrics", "metrics.csv", "--storage", "store")
    assert capsys.readouterr().out.strip().startswith("2 runs, 2 sources, 1 metrics: ")
    assert json.loads(Path("store/swarms/first.json").read_text())["metrics"] == ["loss"]
    Path("metrics.csv").write_text("run,loss\n2,3.0\n")
    with pytest.raises(InputError, match="1 of 2 runs have no metrics"):
        invoke("import", "second", "--ratios", "ratios.csv", "--metrics", "metrics.csv", "--storage", "other")
    assert not Path("other").exists()


def test_a_log_is_audited(capsys: pytest.CaptureFixture[str]) -> None:
    Path("log.csv").write_text("source,tokens\nweb,300\ncode,100\n")
    invoke("audit", "mixture.json", "--log", "log.csv")
    shown = capsys.readouterr().out
    assert "25 % of the 400 tokens came from other sources" in shown
    assert "75.0 %" in shown
    invoke("audit", "mixture.json", "--log", "log.csv", "--json")
    rows = json.loads(capsys.readouterr().out)["audits"]["log.csv"]["sources"]
    assert [row["realised"] for row in rows] == [0.75, 0.25]
    with pytest.raises(InputError):
        invoke("audit", "mixture.json")
