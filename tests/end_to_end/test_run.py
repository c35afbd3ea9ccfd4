"""A whole run as a user sees it: the answer, the files, MLflow, and the second time."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from scipy.special import logsumexp

import mixray
from mixray.cli import app
from mixray.cluster import Session
from mixray.methods import balanced
from mixray.result import show
from tests.end_to_end.conftest import WORDS, content_of, results, small_run
from tests.end_to_end.conftest import mixray as command


def the_run(finished: Path) -> Path:
    (folder,) = (finished / "runs-here" / "runs").glob("small-*")
    return folder


def test_the_json_names_the_folder_and_holds_the_mixture_files(finished: Path) -> None:
    printed = json.loads((finished / "stdout.json").read_text())
    folder = Path(printed["run"])
    assert folder == the_run(finished)
    assert set(printed["mixtures"]) == {"zoo", "mixed"}
    for target, mixture in printed["mixtures"].items():
        assert mixture == json.loads((folder / "mixtures" / f"{target}.json").read_text())
        assert mixture["schema"] == "mixray.mixture/1"
        assert abs(sum(mixture["weights"].values()) - 1) <= 1e-12
        assert mixture["status"] == "converged"
        assert 0 <= mixture["gap"] <= 1e-8
        assert mixture["loss"]["mixmin"] <= min(mixture["loss"].values()) + 1e-12
        assert set(mixture["retrain"]) == {"mixmin", "balanced"}
        assert mixture["compute"]["overhead"] > 0


def test_the_answer_makes_sense(finished: Path) -> None:
    zoo, mixed = (mixray.load_mixture(the_run(finished) / "mixtures" / f"{name}.json") for name in ("zoo", "mixed"))
    assert zoo.weights["animals"] > 0.9
    assert mixed.weights["animals"] < 0.1
    mixmin, balanced = zoo.retrain["mixmin"].nll, zoo.retrain["balanced"].nll
    assert mixmin is not None
    assert balanced is not None
    assert mixmin < balanced
    low, high = zoo.interval["animals"]
    assert low <= zoo.weights["animals"] <= high + 1e-9


def test_the_config_in_the_run_folder_is_the_whole_one(finished: Path) -> None:
    settings = yaml.safe_load((the_run(finished) / "config.yaml").read_text())
    assert settings["proxy"]["optimizer"]["betas"] == [0.9, 0.95]
    again = mixray.load_config(the_run(finished) / "config.yaml")
    assert again == mixray.load_config(finished / "run.yaml")


def test_mlflow_has_the_run_its_children_curves_and_figures(finished: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{finished / 'runs-here' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    children = {"proxy/animals", "proxy/numbers", "proxy/colours", "arm/mixmin-zoo", "arm/mixmin-mixed", "arm/balanced"}
    parent = runs[the_run(finished).name]
    assert set(runs) == children | {parent.info.run_name}
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in children} == {parent.info.run_id}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert parent.data.params["proxy.tokens"] == "30000"
    curve = client.get_metric_history(runs["proxy/animals"].info.run_id, "loss")
    steps = [point.step for point in curve]
    assert steps == sorted(set(steps))
    assert steps[-1] == 117 * 8 * 32
    assert curve[-1].value < curve[0].value - 1
    best, balanced = runs["arm/mixmin-zoo"].data, runs["arm/balanced"].data
    assert parent.data.metrics["held_out/zoo"] == best.metrics["held_out/zoo"] < balanced.metrics["held_out/zoo"]
    assert (best.tags["role"], best.tags["method"], best.tags["target"]) == ("arm", "mixmin", "zoo")
    for name in ("arm/mixmin-zoo", "arm/balanced"):  # judged on the same sample on the way, on every retrained target
        for target in ("zoo", "mixed"):
            points = client.get_metric_history(runs[name].info.run_id, f"held_out_sample/{target}")
            assert len({point.step for point in points}) == len(points) == 10
            assert points[-1].step == 78 * 8 * 32
            assert points[-1].value < points[0].value or (name, target) == ("arm/mixmin-zoo", "mixed")
    page = (the_run(finished) / "report" / "report.html").read_text(encoding="utf-8")
    assert "Held-out loss while the arms train" in page
    assert set(balanced.params) >= {"share.animals", "share.numbers", "share.colours"}
    models = client.search_logged_models([experiment.experiment_id])
    assert {model.source_run_id for model in models} == {runs[name].info.run_id for name in children}
    assert {entry.dataset.name for entry in parent.inputs.dataset_inputs} >= {"animals", "zoo"}
    figures = {Path(item.path).name for item in client.list_artifacts(parent.info.run_id, "figures")}
    assert figures == {
        f"{target}_{kind}.png" for target in ("zoo", "mixed") for kind in ("weights", "losses", "solver", "path")
    }


def test_a_copy_of_the_storage_opens_where_the_original_is_gone(finished: Path, tmp_path: Path) -> None:
    name, original, aside, copy = (
        the_run(finished).name,
        finished / "runs-here",
        finished / "aside",
        tmp_path / "copied runs",
    )
    shutil.copytree(original, copy)
    original.rename(aside)
    try:
        folder = copy / "runs" / name
        shown = command("show", folder)
        assert shown.returncode == 0, shown.stderr
        assert f"mlflow ui --backend-store-uri 'sqlite:///{copy / 'mlflow.db'}'" in shown.stdout
        assert command("list", copy).returncode == 0
        assert command("solve", folder, "--target", "zoo").returncode == 0
        client = mlflow.MlflowClient(f"sqlite:///{copy / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("small")
        runs = client.search_runs([experiment.experiment_id])
        assert len(runs) == 7, "the copy has no second record of the run"
        parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        assert parent.data.tags["mixray.folder"] == str(folder)
        downloaded = client.download_artifacts(parent.info.run_id, "figures/zoo_weights.png", str(tmp_path))
        assert Path(downloaded).read_bytes() == (folder / "report" / "zoo_weights.png").read_bytes()
        models = client.search_logged_models([experiment.experiment_id])
        assert len(models) == 6
        assert all(Path(model.tags["location"], "model.safetensors").is_relative_to(copy) for model in models)
        assert all(Path(model.tags["location"], "model.safetensors").exists() for model in models)
        assert all(model.artifact_location.startswith((copy / "mlflow-artifacts").as_uri()) for model in models)
        again = command("run", finished / "run.yaml", f"storage={copy}")
        assert again.returncode == 0, again.stderr
        assert len(client.search_runs([experiment.experiment_id])) == 7
    finally:
        aside.rename(original)


def test_a_second_run_trains_and_scores_nothing_and_starts_no_cluster(finished: Path) -> None:
    storage = finished / "runs-here"
    kinds = ("tokens", "rows", "proxy", "column", "solution", "signs", "model")
    before = {kind: content_of(storage, kind) for kind in kinds}, results(storage)
    again = command("run", finished / "run.yaml", "--address", "127.0.0.1:1")  # where no cluster is
    assert again.returncode == 0, again.stderr
    assert ({kind: content_of(storage, kind) for kind in kinds}, results(storage)) == before
    assert "tokens/s" not in again.stderr
    *_, folder, page, view, address = again.stdout.rstrip().splitlines()
    assert folder == f"run folder: {the_run(finished)}"
    assert page == f"report: {the_run(finished) / 'report' / 'report.html'}"
    text = (the_run(finished) / "report" / "report.html").read_text()
    assert text.count("has the lowest held-out loss") == text.count('class="what-if"') == 2
    assert view == f"open it in MLflow: mlflow ui --backend-store-uri sqlite:///{finished / 'runs-here' / 'mlflow.db'}"
    assert re.fullmatch(r"and then at http://127.0.0.1:5000/#/experiments/1/runs/\w+\?workflowType=.*", address)


def test_a_damaged_artifact_of_every_kind_is_named_and_the_run_makes_it_anew(finished: Path, tmp_path: Path) -> None:
    """Of each kind one file is truncated and, in another copy of the storage, one bit of it is turned."""
    copy = tmp_path / "runs-here"
    kinds = sorted(path.name for path in (finished / "runs-here" / "artifacts").iterdir())
    assert kinds == [
        "column",
        "model",
        "proxy",
        "rows",
        "scan",
        "selection",
        "signs",
        "solution",
        "tokenizer",
        "tokens",
    ]
    sound = {kind: content_of(finished / "runs-here", kind) for kind in kinds}
    for damage in (lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(finished / "runs-here", copy)
        (copy / "artifacts" / ".DS_Store").write_bytes(b"")
        hurt: set[str] = set()
        for kind in kinds:
            id = sorted(sound[kind])[0]
            manifest = json.loads((copy / "artifacts" / kind / id / "manifest.json").read_text())
            name, record = max(manifest["files"].items(), key=lambda entry: int(entry[1]["bytes"]))
            (copy / record["path"]).write_bytes(damage((copy / record["path"]).read_bytes()))
            hurt.add(f"{copy}/artifacts/{kind}/{id}: {name}: ")
        checked = command("verify", copy, "--json")
        assert checked.returncode == 2
        printed = json.loads(checked.stdout)
        assert printed["not_mixray"] == [f"{copy}/artifacts/.DS_Store"]
        for fault in printed["corrupted"]:
            hurt.remove(next(start for start in hurt if fault.startswith(start)))
        assert not hurt, "not named"
    again = command("run", finished / "run.yaml", f"storage={copy}", "--rebuild")
    assert again.returncode == 0, again.stderr
    assert {kind: content_of(copy, kind) for kind in kinds} == sound
    whole = command("verify", copy)
    assert whole.returncode == 0, whole.stderr
    assert f"not mixray's, left alone: {copy}/artifacts/.DS_Store" in whole.stdout


def test_show_prints_what_the_files_hold(finished: Path) -> None:
    shown = command("show", the_run(finished))
    assert shown.returncode == 0, shown.stderr
    assert "lowest held-out loss" in shown.stdout
    html = show(str(the_run(finished)))._repr_html_()
    assert (html.count("<svg"), html.count("<table>")) == (4, 4), "figures and tables of two mixtures in a notebook"
    as_json = json.loads(command("show", the_run(finished), "--json").stdout)
    assert as_json == json.loads((finished / "stdout.json").read_text())


def test_the_prediction_cache_opens_as_one_ray_dataset(finished: Path, ray_session: Session) -> None:
    ray_session.connect()
    rows = mixray.open_cache(str(the_run(finished)), "mixed").to_pandas()
    mixture = mixray.load_mixture(the_run(finished) / "mixtures" / "mixed.json")
    segments = [f"{source}.segments" for source in mixture.sources]
    assert list(rows.columns[:3]) == ["document", "window", "count"]
    assert set(rows.columns[3:]) == {*mixture.sources, *segments}
    assert not rows.duplicated(["document", "window"]).any()
    for source in mixture.sources:
        assert rows[f"{source}.segments"].map(np.sum).to_numpy() == pytest.approx(rows[source].to_numpy(), rel=1e-5)
    totals = rows.groupby("document")[["count", *mixture.sources]].sum()
    log_probs = totals[mixture.sources].to_numpy(np.float64)
    nats = logsumexp(log_probs + np.log(list(balanced(mixture.sources).weights.values())), axis=1)
    assert -(nats / totals["count"].to_numpy(np.float64)).mean() == pytest.approx(mixture.loss["balanced"], rel=1e-12)


@pytest.mark.parametrize("solver", ["entropic", "working_set"])
def test_solve_gives_the_same_mixture_by_another_solver(finished: Path, solver: str) -> None:
    settings = [f"mixture.solver={solver}", "mixture.bootstrap=0", "mixture.tolerance=1e-9"]
    solved = command("solve", the_run(finished), *settings, "--target", "mixed", "--json")
    assert solved.returncode == 0, solved.stderr
    (mixture,) = json.loads(solved.stdout)["mixtures"].values()
    original = mixray.load_mixture(the_run(finished) / "mixtures" / "mixed.json")
    assert mixture["loss"]["mixmin"] == pytest.approx(original.loss["mixmin"], abs=2e-8)


def test_solve_keeps_new_bounds(finished: Path) -> None:
    solved = command("solve", the_run(finished), "mixture.bounds={animals: [0, 0.25]}", "--target", "zoo", "--json")
    (mixture,) = json.loads(solved.stdout)["mixtures"].values()
    assert mixture["weights"]["animals"] == pytest.approx(0.25)


def test_until_a_stage_stops_there(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage, shown in {"data": "Data", "proxies": "Proxies", "cache": "Prediction cache of zoo"}.items():
        app(["run", str(finished / "run.yaml"), "--until", stage], standalone_mode=False)
        assert shown in capsys.readouterr().out


def test_python_shows_progress_unless_another_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixray.run(finished / "run.yaml", until="data")
    assert "[data] begins" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_session")
def test_new_targets_cost_scoring_alone(finished: Path, tmp_path: Path) -> None:
    """Nothing is trained again: the tokens, and so the models, are the same artifacts. One target has options."""
    path = small_run(tmp_path, storage=str(finished / "runs-here"))
    content = yaml.safe_load(path.read_text())
    answer = {"options": "options", "label": "label"}
    quiz = {"prompt": "{start}", "completion": " {answer}", "answer": answer}
    content["targets"] = {
        "numerals": {"jsonl": str(tmp_path / "numerals.jsonl")},
        "quiz": {"jsonl": str(tmp_path / "quiz.jsonl"), **quiz},
    }
    content["retrain"]["arms"] = ["balanced"]
    content["name"] = "another"
    path.write_text(yaml.safe_dump(content))
    lines = [json.dumps({"text": f"seven {' eight' * (index % 5)} nine {index}"}) for index in range(40)]
    (tmp_path / "numerals.jsonl").write_text("\n".join(lines))
    draws, others = np.random.default_rng(0), WORDS["numbers"] + WORDS["colours"]
    items = []
    for number in range(80):
        options = [f"{draws.choice(others)} {draws.choice(others)}" for _ in range(3)]
        options[number % 3] = " ".join(draws.choice(WORDS["animals"], 2))
        start = " ".join(draws.choice(WORDS["animals"], 6))
        items.append(json.dumps({"start": start, "options": options, "label": number % 3}))
    (tmp_path / "quiz.jsonl").write_text("\n".join(items))
    before = [content_of(finished / "runs-here", kind) for kind in ("proxy", "model")]
    done = mixray.run(path, until="retrain")
    assert [content_of(finished / "runs-here", kind) for kind in ("proxy", "model")] == before
    assert done.mixtures["numerals"].weights["numbers"] > 0.9
    assert done.mixtures["quiz"].weights["animals"] > 0.9
    arm = done.mixtures["quiz"].retrain["balanced"]
    assert arm.metrics["accuracy"].value > 0.6, "a third by chance"
    assert (arm.metrics["accuracy"].interval or (0.0,))[0] > 1 / 3


@pytest.mark.usefixtures("ray_session")
def test_one_mixture_for_all_targets_costs_one_more_model(finished: Path) -> None:
    """The worst case over targets, a capped group, the near-optimal mixture nearest to balanced, all from one cache."""
    before = content_of(finished / "runs-here", "proxy")
    settings = ["name=together", "mixture.over=worst", "mixture.choose={rule: nearest_to_prior, within: 0.002}"]
    settings += ["mixture.groups=[{sources: [animals, numbers], max: 0.7}]"]
    done = mixray.run(finished / "run.yaml", settings)
    assert content_of(finished / "runs-here", "proxy") == before
    (name,) = done.mixtures
    worst = mixray.load_mixture(Path(done.folder) / "mixtures" / "worst.json")
    assert (name, worst.over, worst.targets) == ("worst", "worst", ["zoo", "mixed"])
    assert worst.weights["animals"] + worst.weights["numbers"] <= 0.7 + 1e-12
    assert sum(worst.target_weights.values()) == pytest.approx(1)
    assert worst.choice is not None
    assert 0 < worst.choice.loss_rise <= worst.choice.allowed_rise
    for arm in ("mixmin", "balanced"):
        assert set(worst.retrain[arm].targets) == {"zoo", "mixed"}
        assert worst.retrain[arm].nll is None  # there is no one number to judge a worst case by
    assert (Path(done.folder) / "report" / "worst_path.png").stat().st_size > 10_000
    shown = command("show", done.folder)
    assert "What a source is worth" in shown.stdout
    assert "Targets: loss in nats per token" in shown.stdout


@pytest.mark.usefixtures("ray_session")
def test_arms_of_the_users_own_are_trained_in_replicates(finished: Path, tmp_path: Path) -> None:
    """Shares in the run file and in a file, Group DRO on the best mixture, two seeds of each; what exists is reused."""
    shares = {"animals": 0.5, "numbers": 0.25, "colours": 0.25}
    (tmp_path / "doremi.json").write_text(json.dumps({"train_domain_weights": shares}))
    arms = [
        "balanced",
        {"name": "current", "shares": shares},
        {"name": "doremi", "file": str(tmp_path / "doremi.json")},
        {"name": "dro", "mixture": "mixmin", "objective": {"kind": "group_dro", "step_size": 0.1}},
    ]
    overrides = {"name": "arms", "mixture.over": "mean", "retrain.arms": arms, "retrain.replicates": 2}
    before = content_of(finished / "runs-here", "model")
    done = mixray.run(finished / "run.yaml", overrides)
    retrain = done.mixtures["mean"].retrain
    assert list(retrain) == ["balanced", "current", "doremi", "dro"]
    models = {Path(str(arm.model)).parent.name for arm in retrain.values()}
    new = content_of(finished / "runs-here", "model").keys() - before.keys()
    assert len(new) == 5  # balanced.seed1, and two each of current, which is also doremi, and dro
    assert len(models - new) == 1  # balanced under the run's own seed
    assert retrain["current"].nll_by_seed == retrain["doremi"].nll_by_seed
    for arm in retrain.values():
        assert len(set(arm.nll_by_seed)) == 2
        assert all(len(set(loss.nll_by_seed)) == 2 for loss in arm.targets.values())
    assert all(retrain[arm].difference_interval for arm in ("current", "doremi", "dro"))
    assert sum(retrain["dro"].group_weights.values()) == pytest.approx(1)
    assert retrain["dro"].group_weights != retrain["balanced"].group_weights == {}
    assert done.mixtures["mean"].loss["current"] == done.mixtures["mean"].loss["doremi"]
    (tmp_path / "doremi.json").unlink()
    assert mixray.load_config(Path(done.folder) / "config.yaml").retrain.named_arms["doremi"].shares == shares
    shown = " ".join(command("show", done.folder).stdout.split())
    assert ", 2 seeds; 20.0 k training tokens each" in shown
    assert "dro mixmin group_dro" in shown.replace(" *", "")
    client = mlflow.MlflowClient(f"sqlite:///{finished / 'runs-here' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("arms").experiment_id])
    assert {"arm/dro-mean", "arm/dro-mean.seed1", "arm/current.seed1"} <= {run.info.run_name for run in runs}


@pytest.mark.usefixtures("ray_session")
def test_a_sweep_runs_what_is_not_stored_and_stands_above_its_runs(finished: Path) -> None:
    settings = ["mixture.choose.rule=[optimum, nearest_to_prior]", "mixture.over=mean", "name=swept"]
    settings += ["mixture.choose.within=0.002", "retrain.tokens=5000"]
    before = content_of(finished / "runs-here", "proxy")
    done = mixray.sweep(finished / "run.yaml", settings)
    assert content_of(finished / "runs-here", "proxy") == before
    models = content_of(finished / "runs-here", "model")
    assert [dict(run.settings) for run in done.runs] == [
        {"mixture.choose.rule": "optimum"},
        {"mixture.choose.rule": "nearest_to_prior"},
    ]
    first, second = (run.mixtures["mean"] for run in done.runs)
    assert first.choice is None
    assert second.choice is not None
    assert first.retrain["balanced"].nll == second.retrain["balanced"].nll  # one model of both
    with (Path(done.location) / "sweep.csv").open(newline="") as table:
        held_out = {(row["mixture.choose.rule"], row["arm"]): row["held_out"] for row in csv.DictReader(table)}
    assert float(held_out["optimum", "mixmin"]) == first.retrain["mixmin"].nll
    assert float(held_out["nearest_to_prior", "balanced"]) == second.retrain["balanced"].nll
    assert (Path(done.location) / "mean.png").stat().st_size > 10_000
    client = mlflow.MlflowClient(f"sqlite:///{finished / 'runs-here' / 'mlflow.db'}")
    runs = {
        run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("swept").experiment_id])
    }
    parent = runs[Path(done.location).name]
    assert {Path(item.path).name for item in client.list_artifacts(parent.info.run_id)} == {"sweep.csv", "mean.png"}
    for run in done.runs:
        assert runs[Path(run.location).name].data.tags["mlflow.parentRunId"] == parent.info.run_id
    again = json.loads(command("sweep", finished / "run.yaml", *settings, "--json").stdout)
    assert again["sweep"] == done.location
    assert content_of(finished / "runs-here", "model") == models
    assert "Sweep for zoo, mixed" in command("sweep", finished / "run.yaml", *settings).stdout


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("over", ["each", "worst"])
def test_shard_actors_find_the_same_mixtures(finished: Path, over: str) -> None:
    """From the same cache, whose rows they keep in files."""
    found = {}
    for shards in (None, {"actors": 1, "resources": {"cpus": 0.5}, "memory": 1}):
        overrides = {"name": "sharded", "mixture.over": over, "mixture.shards": shards}
        found[shards is None] = mixray.run(finished / "run.yaml", overrides, until="mixture").mixtures
    here, there = found[True], found[False]
    assert list(there) == list(here) == (["zoo", "mixed"] if over == "each" else ["worst"])
    for name, mixture in there.items():
        assert mixture.status == "converged"
        assert mixture.weights == pytest.approx(here[name].weights, abs=1e-4)
        assert mixture.loss == pytest.approx(here[name].loss, abs=3e-8)  # the tolerance and float32
        assert mixture.target_loss == pytest.approx(here[name].target_loss, abs=1e-5)


def test_solve_sweeps_a_cap(finished: Path) -> None:
    asked = ["solve", the_run(finished), "mixture.bounds.animals=[0, 0.2..0.6:0.2]", "--target", "zoo"]
    swept = json.loads(command(*asked, "--json").stdout)
    assert swept["key"] == "mixture.bounds.animals"
    assert [step["value"][1] for step in swept["sweep"]] == [0.2, 0.4, 0.6]
    for step in swept["sweep"]:
        assert step["mixtures"]["zoo"]["weights"]["animals"] == pytest.approx(step["value"][1])
    table = command(*asked).stdout
    assert "Sweep for zoo" in table
    assert "animals 60.0 %" in table
