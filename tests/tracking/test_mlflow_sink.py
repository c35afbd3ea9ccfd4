"""Records in a real MLflow database: found again, written once, nested, with data sets and files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixray.store import Storage
from mixray.tracking.mlflow_sink import MlflowSink
from mixray.tracking.records import Artifact, Context, Dataset, Finish, Metrics, Point, Record, Start
from mixray.tracking.sink import Unreachable

OpenSink = Callable[..., MlflowSink]
Look = Callable[[], Any]
RUN, PROXY = "quickstart-1a2b3c4d", "proxy/python"


def losses(steps: Sequence[int], key: str = PROXY, time: int = 1_700_000_000_000) -> Metrics:
    return Metrics(key, tuple(Point("loss", 10.0 - step / 1000, step, time + step) for step in steps))


def dataset(name: str, digest: str, context: Context = "training", source: str = "/usr/lib/python3") -> Dataset:
    return Dataset("", name, digest, source, context, {"documents": 12, "tokens": 3456})


WHOLE_RUN: list[Record] = [
    Start("", {"seed": "0", "proxy.tokens": "200000"}, {"mixray.folder": "/store/runs/x"}),
    dataset("python", "ab" * 32),
    dataset("sklearn", "cd" * 32, "evaluation"),
    Start(PROXY, {"parameters": "1000"}),
    losses(range(0, 1000, 100)),
    Finish(PROXY, time=1_700_000_001_000),
    Artifact("", "figures/weights.png", b"\x89PNG one"),
    Finish("", time=1_700_000_002_000),
]


def everything(mlflow: Any) -> object:
    """All that MLflow holds of the runs, times included."""
    return [
        (run.info.run_id, run.info.status, run.info.start_time, run.info.end_time, run.data.to_dictionary(),
         run.inputs.to_dictionary(), mlflow.history(run.info.run_name, "loss"))
        for run in mlflow.runs
    ]  # fmt: skip


def test_children_are_nested_under_the_run(open_sink: OpenSink, look: Look) -> None:
    open_sink().send(WHOLE_RUN)
    mlflow = look()
    parent, child = mlflow.run(RUN), mlflow.run(PROXY)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.data.tags["mixray.key"], child.data.tags["mixray.key"]) == ("", PROXY)
    assert {run.data.tags["mixray.run"] for run in mlflow.runs} == {RUN}
    assert parent.data.params == {"seed": "0", "proxy.tokens": "200000"}
    assert parent.data.tags["mixray.folder"] == "/store/runs/x"
    assert (child.info.status, child.info.end_time) == ("FINISHED", 1_700_000_001_000)


def test_a_child_told_first_still_gets_its_parent(open_sink: OpenSink, look: Look) -> None:
    open_sink().send([losses([0])])
    mlflow = look()
    assert mlflow.run(PROXY).data.tags["mlflow.parentRunId"] == mlflow.run(RUN).info.run_id


def test_the_curve_is_against_tokens_with_its_own_times(open_sink: OpenSink, look: Look) -> None:
    open_sink().send([losses([4096, 8192])])
    mlflow = look()
    assert mlflow.history(PROXY, "loss") == [(4096, 10.0 - 4.096), (8192, 10.0 - 8.192)]
    points = mlflow.client.get_metric_history(mlflow.run(PROXY).info.run_id, "loss")
    assert [point.timestamp for point in points] == [1_700_000_004_096, 1_700_000_008_192]


def test_more_points_than_a_batch_holds_all_arrive(open_sink: OpenSink, look: Look) -> None:
    open_sink().send([losses([step]) for step in range(2500)])
    assert [step for step, _ in look().history(PROXY, "loss")] == list(range(2500))


def test_infinite_and_undefined_losses_arrive(open_sink: OpenSink, look: Look) -> None:
    points = (Point("loss", math.inf, 1, 1), Point("loss", math.nan, 2, 2))
    open_sink().send([Metrics("", points)])
    (_, first), (_, second) = look().history(RUN, "loss")
    assert first > 1e308
    assert math.isnan(second)


def test_a_second_run_of_the_same_file_writes_nothing(open_sink: OpenSink, look: Look) -> None:
    open_sink().send(WHOLE_RUN)
    before = everything(look())
    hour = 3_600_000
    again = [replace(record, time=record.time + hour) if isinstance(record, Finish) else record for record in WHOLE_RUN]
    open_sink().send(again)
    assert everything(look()) == before


@pytest.mark.parametrize("told", range(1, len(WHOLE_RUN)))
def test_a_run_cut_off_anywhere_goes_on_in_the_same_runs(open_sink: OpenSink, look: Look, told: int) -> None:
    open_sink().send(WHOLE_RUN[:told])
    open_sink().send(WHOLE_RUN)
    mlflow = look()
    assert [run.info.status for run in mlflow.runs] == ["FINISHED", "FINISHED"]
    assert [step for step, _ in mlflow.history(PROXY, "loss")] == list(range(0, 1000, 100))


def test_a_curve_goes_on_behind_its_last_step(open_sink: OpenSink, look: Look) -> None:
    open_sink().send([losses([0, 100, 200])])
    open_sink().send([losses([100, 200, 300], time=1_800_000_000_000), losses([250])])
    assert [step for step, _ in look().history(PROXY, "loss")] == [0, 100, 200, 300]


def test_a_parameter_is_written_once_and_keeps_its_value(open_sink: OpenSink, look: Look) -> None:
    open_sink().send([Start("", {"seed": "0", "text": "x" * 9000})])
    open_sink().send([Start("", {"seed": "1", "text": "x" * 9001, "new": "2"})])
    assert look().run(RUN).data.params == {"seed": "0", "text": "x" * 6000, "new": "2"}


def test_more_parameters_than_a_batch_holds_all_arrive(open_sink: OpenSink, look: Look) -> None:
    params = {f"sources.s{number}.files": str(number) for number in range(250)}
    open_sink().send([Start("", params)])
    assert look().run(RUN).data.params == params


def test_data_sets_have_digest_source_context_and_counts(open_sink: OpenSink, look: Look) -> None:
    open_sink().send(WHOLE_RUN)
    inputs = {entry.dataset.name: entry for entry in look().run(RUN).inputs.dataset_inputs}
    python = inputs["python"].dataset
    assert python.digest == "ab" * 18
    assert json.loads(python.profile) == {"sha256": "ab" * 32, "documents": 12, "tokens": 3456}
    contexts = {name: {tag.key: tag.value for tag in entry.tags} for name, entry in inputs.items()}
    assert contexts == {
        "python": {"mlflow.data.context": "training"},
        "sklearn": {"mlflow.data.context": "evaluation"},
    }


@pytest.mark.parametrize(
    ("source", "kind", "link"),
    [
        ("/usr/lib/python3", "local", {"uri": "/usr/lib/python3"}),
        ("s3://bucket/wiki", "s3", {"uri": "s3://bucket/wiki"}),
        ("https://host/a.jsonl", "http", {"url": "https://host/a.jsonl"}),
        ("hf://pg19", "hugging_face", {"path": "pg19"}),
    ],
)
def test_a_data_set_links_to_its_source(open_sink: OpenSink, look: Look, source: str, kind: str, link: object) -> None:
    open_sink().send([dataset("python", "ab" * 32, source=source)])
    (entry,) = look().run(RUN).inputs.dataset_inputs
    assert (entry.dataset.source_type, json.loads(entry.dataset.source)) == (kind, link)


def test_a_file_is_replaced_when_its_bytes_change(
    tracked_storage: Storage, open_sink: OpenSink, look: Look, tmp_path: Path
) -> None:
    open_sink().send([Artifact("", "figures/weights.png", b"one"), Artifact("", "config.yaml", b"a: 1")])
    assert look().artifact(RUN, "figures/weights.png", tmp_path / "down") == b"one"
    open_sink().send([Artifact("", "figures/weights.png", b"two")])
    assert look().artifact(RUN, "figures/weights.png", tmp_path / "down") == b"two"
    assert look().artifact(RUN, "config.yaml", tmp_path / "down") == b"a: 1"
    stored = Path(tracked_storage.full("mlflow-artifacts"))
    assert [path.name for path in sorted(stored.rglob("*.*"))] == ["config.yaml", "weights.png"]


def test_a_finished_run_is_running_again_while_something_new_is_told(open_sink: OpenSink, look: Look) -> None:
    open_sink().send([*WHOLE_RUN[:-1], Finish("", "FAILED")])
    sink = open_sink()
    sink.send(WHOLE_RUN[:-1])
    assert look().run(RUN).info.status == "FAILED"
    sink.send([dataset("new", "ef" * 32)])
    assert look().run(RUN).info.status == "RUNNING"
    sink.send([Finish("")])
    assert look().run(RUN).info.status == "FINISHED"


def test_runs_of_one_experiment_do_not_mix(open_sink: OpenSink, look: Look) -> None:
    open_sink().send([losses([100])])
    open_sink("quickstart-ffffffff").send([losses([50])])
    names = sorted((run.data.tags["mixray.run"], run.info.run_name) for run in look().runs)
    assert names == [
        (RUN, PROXY),
        (RUN, RUN),
        ("quickstart-ffffffff", PROXY),
        ("quickstart-ffffffff", "quickstart-ffffffff"),
    ]


def test_what_mlflow_refuses_is_reported_once_and_blocks_nothing(open_sink: OpenSink, look: Look) -> None:
    warnings: list[str] = []
    sink = open_sink(warn=warnings.append)
    bad = Metrics("", (Point("100 %?", 1.0, 0, 0),))
    sink.send([bad, Start("", {"seed": "0"}), bad, losses([0])])
    assert len(warnings) == 1
    assert "MLflow refused a record of quickstart-1a2b3c4d" in warnings[0]
    assert "100 %?" in warnings[0]
    mlflow = look()
    assert mlflow.run(RUN).data.params == {"seed": "0"}
    assert mlflow.history(PROXY, "loss") == [(0, 10.0)]


def test_a_database_that_is_none_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("this is not a database\n" * 100)
    with pytest.raises(Unreachable, match="not a database"):
        MlflowSink(f"sqlite:///{path}", "quickstart", RUN, None, pytest.fail)


def test_an_experiment_in_the_bin_is_reported_as_it_is(open_sink: OpenSink, look: Look) -> None:
    open_sink()
    mlflow = look()
    mlflow.client.delete_experiment(mlflow.experiment.experiment_id)
    warnings: list[str] = []
    open_sink(warn=warnings.append).send([Start("", {"seed": "0"})])
    assert "deleted" in warnings[0]
