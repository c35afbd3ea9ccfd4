"""``mixray export``, ``import`` and ``audit`` as commands: what they print where, what they write, and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mixray import cli
from mixray.config import RunConfig, load_config
from mixray.errors import InputError
from mixray.mixture import Mixture
from mixray.runs import MixtureRun
from mixray.store import ModelMeta, SourceLoss

JOBS = Path(__file__).parents[2] / "jobs"
REGMIX = Path(__file__).parents[3] / "shared" / "data" / "regmix"
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


def test_a_mixture_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no such mixture file[\s\S]*got: mixtures\.json"):
        invoke("export", "mixtures.json", "--to", "json")


@pytest.fixture
def finished(tmp_path: Path) -> MixtureRun:
    """A run of two mixtures and one trained arm."""
    settings = {"storage": str(tmp_path / "mixray-runs"), "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db"}
    run = MixtureRun.create(load_config(JOBS / "quickstart.yaml", settings, kind=RunConfig))
    shares = dict.fromkeys(run.config.sources, 0.0) | {"python": 0.75, "cpp": 0.25}
    for target in run.config.targets:
        run.save_mixture(target, Mixture.from_weights(shares).model_copy(update={"targets": [target]}))
    losses = {name: SourceLoss(share, 64, 5.0, 0.1) for name, share in (shares | {"python": 0.7, "cpp": 0.3}).items()}
    meta = ModelMeta(1, 100_000, 1.0, [], source_shares=shares, source_losses=losses).to_meta()
    size = {"documents": 100, "tokens": 50_000, "tail_tokens": 10}
    sources = {
        f"source/{name}": run.artifacts.draft("tokens", f"{number:064d}").publish({}, size)
        for number, name in enumerate(run.config.sources)
    }
    run.index.add(sources)
    run.index.add({"arm/mixmin-pandas": run.artifacts.draft("model", "0" * 64).publish({}, meta)})
    return run


def test_the_arms_of_a_run_are_audited(finished: MixtureRun, capsys: pytest.CaptureFixture[str]) -> None:
    invoke("audit", finished.location, "--json")
    (audit,) = json.loads(capsys.readouterr().out)["audits"].values()
    python = next(row for row in audit["sources"] if row["source"] == "python")
    assert audit["misplaced_share"] == pytest.approx(0.05)
    assert python == {
        "source": "python",
        "requested": 0.75,
        "realised": 0.7,
        "tokens": 70_000,
        "documents": pytest.approx(70_000 / 500.1),
        "epochs": pytest.approx(1.4),
        "loss": 5.0,
    }
    invoke("audit", finished.location)
    assert "mixmin-pandas: shares of training tokens" in capsys.readouterr().out


def test_one_mixture_of_a_run_is_exported(finished: MixtureRun, capsys: pytest.CaptureFixture[str]) -> None:
    invoke("export", finished.location, "--target", "pandas", "--to", "levanter")
    out, err = capsys.readouterr()
    assert yaml.safe_load(out) == {"data": {"train_weights": {"python": 0.75, "cpp": 0.25}}}
    assert "mixture for pandas" in err
    with pytest.raises(InputError, match=r"several mixtures[\s\S]*one of pandas, "):
        invoke("export", finished.location, "--to", "levanter")
    with pytest.raises(InputError, match="no such mixture"):
        invoke("export", finished.location, "--to", "levanter", "--target", "panda")


@pytest.mark.skipif(not REGMIX.exists(), reason="RegMix's published tables are not here")
def test_the_published_swarm_of_regmix_is_imported_by_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    ratios, metrics = (str(REGMIX / f"train_{table}_1m.csv") for table in ("mixture", "pile_loss"))
    invoke("import", "regmix-1m", "--ratios", ratios, "--metrics", metrics)
    out, err = capsys.readouterr()
    assert out.startswith("512 runs, 17 sources, 13 metrics: ")
    assert err == ""
    assert Path("mixray-runs/swarms/regmix-1m.json").is_file()


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
