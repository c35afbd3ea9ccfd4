"""Searches over tables from the run file to the report, in this process: every kind of model, task and reader.

What Ray does is to call the same functions elsewhere; ``test_trees.py`` and ``test_examples.py`` run on it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import mixray
from mixray.cluster import Session
from mixray.errors import InputError
from mixray.progress import LineProgress, open_progress
from mixray.result import Result
from mixray.runs import MixtureRun
from mixray.search import solve_again

SHARES = {"first": 0.7, "second": 0.3}
SLOPES = {"first": [3.0, 0.0, 1.0], "second": [0.0, -3.0, 1.0]}
LABELS = {"two": ["no", "yes"], "three": ["high", "low", "middle"]}
TREES = {"rounds": 40, "depth": 3}
Columns = dict[str, np.ndarray]


def in_process(patch: pytest.MonkeyPatch) -> None:
    """Call here what Ray calls elsewhere."""

    def on_actors(_session: Session, worker: type, arguments: Any, items: Sequence[Any], *_: Any) -> Any:
        return map(worker(*arguments), items)

    def tasks(_session: Session, function: Callable[[Any], Any], items: Sequence[Any], _label: str, **_: Any) -> Any:
        return map(function, items)

    patch.setattr("mixray.stages.run_tasks", tasks)
    for module in ("proxies", "scoring"):
        patch.setattr(f"mixray.cluster.{module}.run_on_actors", on_actors)
    patch.setattr(Session, "at_once", lambda *_, **__: 1)


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    in_process(monkeypatch)


def rows(rule: str, task: str, count: int, seed: int) -> Columns:
    """Rows whose label follows the rule of a source; all sources draw the inputs alike."""
    draws = np.random.default_rng([seed, count])
    x = draws.normal(size=(count, 3))
    level = x @ SLOPES[rule]
    if task == "numbers":
        label: np.ndarray = 10 + level + draws.normal(size=count)
    elif task == "two":
        label = np.where(draws.random(count) < 1 / (1 + np.exp(-level)), "yes", "no")
    else:
        noisy = level + draws.logistic(size=count)
        label = np.select([noisy < -1.5, noisy < 1.5], ["low", "middle"], "high")
    return dict(zip("abc", x.T, strict=True)) | {"label": label}


def joined(tables: Sequence[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def pool(folder: Path, name: str, reader: str, table: Columns) -> dict[str, str]:
    path = folder / f"{name}.{reader}"
    if reader == "csv":
        lines = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table({column: pa.array(values.tolist()) for column, values in table.items()}), path)
    return {reader: str(path)}


def search(folder: Path, task: str, library: str, reader: str = "parquet", **changes: Any) -> Result:
    """Run a search; the target's rows are those of the sources in the planted proportions."""
    goal = [rows(rule, task, round(4000 * share), 9) for rule, share in SHARES.items()]
    model = {"boosted_trees": TREES | {"library": library}}
    content = {
        "name": "tables",
        "storage": str(folder / "runs-here"),
        "examples": {"numeric": ["a", "b", "c"], "label": "label"}
        | ({"task": "regression"} if task == "numbers" else {}),
        "sources": {rule: pool(folder, rule, reader, rows(rule, task, 4000, seed)) for seed, rule in enumerate(SLOPES)},
        "targets": {"goal": pool(folder, "goal", reader, joined(goal)) | {"held_out": 0.3}},
        "proxy": {"model": model},
        "mixture": {"bootstrap": 20},
        "retrain": {"model": model},
        **changes,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return mixray.run(path)


@pytest.mark.parametrize(
    ("task", "library", "reader"),
    [
        ("two", "xgboost", "parquet"),
        ("two", "lightgbm", "csv"),
        ("three", "xgboost", "csv"),
        ("three", "lightgbm", "parquet"),
        ("numbers", "xgboost", "parquet"),
        ("numbers", "lightgbm", "csv"),
    ],
)
def test_the_planted_proportions_come_back(task: str, library: str, reader: str, tmp_path: Path) -> None:
    result = search(tmp_path, task, library, reader)
    mixture = result.mixtures["goal"]
    assert sum(abs(mixture.weights[name] - share) for name, share in SHARES.items()) / 2 <= 0.1, mixture.weights
    assert mixture.loss["mixmin"] < mixture.loss["balanced"]
    assert not {"covariate_shift", "no_support"} & {sign.code for sign in mixture.warnings}
    assert mixture.loss_unit == ("squared error" if task == "numbers" else "nats per example")
    arms = mixture.retrain
    assert arms["mixmin"].nll < arms["balanced"].nll  # type: ignore[operator]
    names = {"two": ["average_precision", "auroc", "nll", "calibration_error"], "three": ["nll"], "numbers": ["rmse"]}
    assert all(list(arm.metrics) == names[task] for arm in arms.values())
    loss = arms["mixmin"].metrics.get("nll") or arms["mixmin"].metrics["rmse"]
    value = loss.value**2 if task == "numbers" else loss.value
    assert arms["mixmin"].nll == pytest.approx(value)
    assert arms["natural"].metrics[names[task][0]].difference is not None
    report = (Path(result.folder) / "report").iterdir()
    assert {"goal_losses.png", "proxy_curves.png"} <= {path.name for path in report}


def test_of_many_sources_the_inputs_of_a_sample_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixray.search.diagnosis.MOST_PAIRED", 2)

    def shifted(place: int, count: int) -> Columns:
        x = np.random.default_rng(place).normal(size=(count, 3)) + 1.5 * place
        return dict(zip("abc", x.T, strict=True)) | {"label": np.where(x[:, 0] > 1.5 * place, "yes", "no")}

    (tmp_path / "many").mkdir()
    pools = {
        "sources": {
            f"s{place}": pool(tmp_path / "many", f"s{place}", "parquet", shifted(place, 300)) for place in range(3)
        },
        "targets": {"goal": pool(tmp_path / "many", "goal", "parquet", shifted(1, 300))},
    }
    result = search(tmp_path, "two", "xgboost", **pools)
    (sign,) = (sign for sign in result.mixtures["goal"].warnings if sign.code == "covariate_shift")
    assert "2 of a sample of 2 of 3 sources" in sign.message
    # A person sees how many trees are trained while others are.
    shown = io.StringIO()
    changed = ["proxy.model.boosted_trees.rounds=3"]
    mixray.run(tmp_path / "run.yaml", changed, until="proxies", progress=LineProgress(shown))
    assert "[proxies] trained 33 %" in shown.getvalue()
    assert "[proxies] trained 100 %" in shown.getvalue()


def test_reweighting_by_the_densities_of_shifted_inputs_claims_no_certificate(tmp_path: Path) -> None:
    def shifted(rule: str, count: int, seed: int) -> Columns:
        draws = np.random.default_rng([seed, count])
        x = draws.normal(size=(count, 3)) + 0.6 * (1 if rule == "first" else -1)
        label = np.where(draws.random(count) < 1 / (1 + np.exp(-x @ SLOPES[rule])), "yes", "no")
        return dict(zip("abc", x.T, strict=True)) | {"label": label}

    folder = tmp_path / "shifted"
    folder.mkdir()
    goal = joined([shifted(rule, round(2000 * share), 9) for rule, share in SHARES.items()])
    pools = {
        "sources": {rule: pool(folder, rule, "parquet", shifted(rule, 2000, 1)) for rule in SLOPES},
        "targets": {"goal": pool(folder, "goal", "parquet", goal) | {"held_out": 0.3}},
    }
    result = search(tmp_path, "two", "lightgbm", mixture={"covariate_shift": "reweight"}, **pools)
    mixture = result.mixtures["goal"]
    assert sum(abs(mixture.weights[name] - share) for name, share in SHARES.items()) / 2 <= 0.1, mixture.weights
    assert mixture.loss["mixmin"] < mixture.loss["balanced"]
    plain = mixray.run(tmp_path / "run.yaml", ["mixture.covariate_shift=assume_none"], until="mixture")
    assert abs(plain.mixtures["goal"].weights["first"] - mixture.weights["first"]) > 0.01
    signs = [sign for sign in plain.mixtures["goal"].warnings if sign.code == "covariate_shift"]
    assert "2 of 2 sources" in signs[0].message
    assert "covariate_shift" not in {sign.code for sign in mixture.warnings}
    # Nothing is said with certainty, and what was reached is said.
    assert mixture.gap is None
    assert mixture.interval == {}
    assert mixture.status == "local_minimum"
    assert mixture.local_minima is not None
    assert mixture.local_minima.lower_bound <= mixture.local_minima.losses[0] <= mixture.loss["balanced"]
    assert mixture.retrain["mixmin"].nll is not None
    (summary,) = (path.read_text() for path in (Path(result.folder) / "report").glob("summary*"))
    assert "nothing certifies the answer" in summary
    assert "above the optimum" not in summary
    # The densities are stored with the predictions, so that no cluster is needed to solve again.
    assert len(list(tmp_path.glob("runs-here/artifacts/densities/*/manifest.json"))) == 1
    for folder, overrides in ((result.folder, []), (plain.folder, ["mixture.covariate_shift=reweight"])):
        again = solve_again(MixtureRun.open(str(folder), open_progress()), overrides, None)
        assert isinstance(again, dict)
        assert again["goal"].weights == mixture.weights
        assert again["goal"].run == MixtureRun.open(str(folder)).name
    assert len(list(tmp_path.glob("runs-here/artifacts/densities/*/manifest.json"))) == 1


def test_a_second_run_makes_nothing(tmp_path: Path) -> None:
    def published() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs-here/artifacts/*/*/manifest.json")}

    first = search(tmp_path, "two", "xgboost")
    before = published()
    assert mixray.run(tmp_path / "run.yaml").mixtures == first.mixtures
    assert published() == before


def test_another_seed_trains_no_proxy_again(tmp_path: Path) -> None:
    def proxies() -> set[Path]:
        return set(tmp_path.glob("runs-here/artifacts/proxy/*/manifest.json"))

    search(tmp_path, "two", "lightgbm")
    before = proxies()
    assert len(before) == 2
    mixray.run(tmp_path / "run.yaml", ["seed=5"], until="mixture")
    assert proxies() == before


def test_a_limit_on_repetition_is_one_on_weights(tmp_path: Path) -> None:
    """Two sources of equal size: an example of a share s has the weight 2 s."""
    result = search(tmp_path, "two", "xgboost", mixture={"bootstrap": 0, "max_epochs": 1.2})
    mixture = result.mixtures["goal"]
    assert mixture.weights["first"] == pytest.approx(0.6)
    assert mixture.epochs["first"] == pytest.approx(1.2)
    assert mixture.budget == 8000


def test_numbers_that_are_none_are_refused_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        search(tmp_path, "two", "xgboost", examples={"numeric": ["a"], "label": "label", "task": "regression"})
    assert caught.value.what == "a numeric column does not hold numbers"
    assert str(caught.value.where).startswith("examples.label, column label")
    assert not (tmp_path / "runs-here").exists()
