"""Runs in a real MLflow database: recognised, completed, nested, with data sets and files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixray.store import Storage
from mixray.tracking.connection import Unreachable
from mixray.tracking.mlflow_runs import Destination, MlflowRuns
from mixray.tracking.records import Context, Point, TrackedDataset, TrackedModel, TrackedRun

Connect = Callable[..., MlflowRuns]
View = Callable[[], Any]
RUN, PROXY = "quickstart-1a2b3c4d", "proxy/python"


def losses(steps: Iterable[int], time: int = 1_700_000_000_000) -> TrackedRun:
    return TrackedRun(PROXY, points=tuple(Point("loss", 10.0 - step / 1000, step, time + step) for step in steps))


def dataset(name: str, digest: str, context: Context = "training", source: str = "/usr/lib/python3") -> TrackedDataset:
    return TrackedDataset(name, digest, source, context, {"documents": 12, "tokens": 3456})


def reading(*datasets: TrackedDataset) -> TrackedRun:
    return TrackedRun("", datasets=datasets)


WHOLE_RUN = [
    TrackedRun(
        "",
        {"seed": "0", "proxy.tokens": "200000"},
        {"mixray.folder": "/store/runs/x"},
        (Point("weight/sklearn/python", 0.25, 0),),
        (dataset("python", "ab" * 32), dataset("sklearn", "cd" * 32, "evaluation")),
        {"figures/weights.png": b"\x89PNG one"},
        "FINISHED",
        started=1_699_999_999_000,
        ended=1_700_000_002_000,
    ),
    TrackedRun(
        PROXY,
        {"parameters": "1000"},
        points=losses(range(0, 1000, 100)).points,
        status="FINISHED",
        started=1_700_000_000_000,
        ended=1_700_000_001_000,
    ),
]
STAGES = [
    TrackedRun("", WHOLE_RUN[0].params),
    reading(WHOLE_RUN[0].datasets[0]),
    losses([0, 100, 700]),
    WHOLE_RUN[1],
    TrackedRun("", files=WHOLE_RUN[0].files, status="FAILED"),
]
"""What may have been published when a run is cut off. Points of the curve are missing between others."""


def everything(mlflow: Any) -> object:
    """Return all that MLflow holds of the runs, times included."""
    return [
        (run.info.run_id, run.info.status, run.info.start_time, run.info.end_time, run.data.to_dictionary(),
         run.inputs.to_dictionary(), mlflow.history(run.info.run_name, "loss"))
        for run in mlflow.runs
    ]  # fmt: skip


def test_children_are_nested_under_the_run(connect: Connect, view: View) -> None:
    connect().publish(WHOLE_RUN)
    mlflow = view()
    parent, child = mlflow.run(RUN), mlflow.run(PROXY)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.data.tags.get("mixray.key"), child.data.tags["mixray.key"]) == (None, PROXY)
    assert {run.data.tags["mixray.run"] for run in mlflow.runs} == {RUN}
    assert parent.data.params == {"seed": "0", "proxy.tokens": "200000"}
    assert parent.data.tags["mixray.folder"] == "/store/runs/x"
    assert (child.info.status, child.info.end_time) == ("FINISHED", 1_700_000_001_000)


def test_a_child_published_first_still_gets_its_parent(connect: Connect, view: View) -> None:
    connect().publish([losses([0])])
    mlflow = view()
    assert mlflow.run(PROXY).data.tags["mlflow.parentRunId"] == mlflow.run(RUN).info.run_id


def test_the_curve_is_against_tokens_with_its_own_times(connect: Connect, view: View) -> None:
    connect().publish([losses([4096, 8192])])
    mlflow = view()
    assert mlflow.history(PROXY, "loss") == [(4096, 10.0 - 4.096), (8192, 10.0 - 8.192)]
    points = mlflow.points(PROXY, "loss")
    assert [point.timestamp for point in points] == [1_700_000_004_096, 1_700_000_008_192]


def test_more_points_than_a_batch_holds_all_arrive(connect: Connect, view: View) -> None:
    connect().publish([losses(range(2500))])
    assert [step for step, _ in view().history(PROXY, "loss")] == list(range(2500))


def test_infinite_and_undefined_losses_arrive(connect: Connect, view: View) -> None:
    connect().publish([TrackedRun("", points=(Point("loss", math.inf, 1), Point("loss", math.nan, 2)))])
    (_, first), (_, second) = view().history(RUN, "loss")
    assert first > 1e308
    assert math.isnan(second)


def test_publishing_again_writes_nothing(connect: Connect, view: View) -> None:
    connect().publish(WHOLE_RUN)
    before = everything(view())
    runs = connect()
    for _ in range(2):
        runs.publish(WHOLE_RUN)
    assert everything(view()) == before


@pytest.mark.parametrize("count", range(1, len(STAGES) + 1))
def test_a_run_cut_off_anywhere_is_completed_in_the_same_runs(connect: Connect, view: View, count: int) -> None:
    for stage in STAGES[:count]:
        connect().publish([stage])
    connect().publish(WHOLE_RUN)
    mlflow = view()
    assert [run.info.status for run in mlflow.runs] == ["FINISHED", "FINISHED"]
    assert mlflow.history(PROXY, "loss") == [(step, 10.0 - step / 1000) for step in range(0, 1000, 100)]
    assert {entry.dataset.name for entry in mlflow.run(RUN).inputs.dataset_inputs} == {"python", "sklearn"}


def test_the_same_point_from_two_publishers_is_stored_once(connect: Connect, view: View) -> None:
    """Neither knows of the other's; points that are equal to the millisecond are one row of MLflow's database."""
    connect().publish([TrackedRun(PROXY)])
    publishers = connect(), connect()
    for publisher in publishers:
        publisher.publish([losses([0, 100])])
    assert [step for step, _ in view().history(PROXY, "loss")] == [0, 100]


def test_other_data_never_continues_a_curve(connect: Connect, view: View) -> None:
    for data in ("before", "after", "before"):
        connect().publish([replace(TrackedRun("", {"seed": "0"}), data=data), replace(losses([0, 100]), data=data)])
    runs = view().runs
    assert sorted((run.data.tags["mixray.data"], run.info.run_name) for run in runs) == sorted(
        (data, name) for data in ("before", "after") for name in (RUN, PROXY)
    )
    ids = {run.data.tags["mixray.data"]: run.info.run_id for run in runs if run.info.run_name == RUN}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs if run.info.run_name == PROXY} == set(ids.values())


def test_the_digests_of_many_files_are_remembered_whole(connect: Connect, view: View) -> None:
    """One tag that held them all would be cut at 8,000 characters."""
    record = TrackedRun("", files={f"figures/{'x' * 60}_{number}.png": b"PNG" for number in range(130)})
    connect().publish([record])
    before = everything(view())
    connect().publish([record])
    assert everything(view()) == before


def test_a_parameter_is_written_once_and_keeps_its_value(connect: Connect, view: View) -> None:
    connect().publish([TrackedRun("", {"seed": "0", "text": "x" * 9000})])
    connect().publish([TrackedRun("", {"seed": "1", "text": "x" * 9001, "new": "2"})])
    assert view().run(RUN).data.params == {"seed": "0", "text": "x" * 6000, "new": "2"}


def test_more_parameters_than_a_batch_holds_all_arrive(connect: Connect, view: View) -> None:
    params = {f"sources.s{number}.files": str(number) for number in range(250)}
    connect().publish([TrackedRun("", params)])
    assert view().run(RUN).data.params == params


def test_data_sets_have_digest_source_context_and_counts(connect: Connect, view: View) -> None:
    connect().publish(WHOLE_RUN)
    inputs = {entry.dataset.name: entry for entry in view().run(RUN).inputs.dataset_inputs}
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
def test_a_data_set_links_to_its_source(connect: Connect, view: View, source: str, kind: str, link: object) -> None:
    connect().publish([reading(dataset("python", "ab" * 32, source=source))])
    (entry,) = view().run(RUN).inputs.dataset_inputs
    assert (entry.dataset.source_type, json.loads(entry.dataset.source)) == (kind, link)


def test_a_file_is_replaced_when_its_bytes_change(
    tracked_storage: Storage, connect: Connect, view: View, tmp_path: Path
) -> None:
    connect().publish([TrackedRun("", files={"figures/weights.png": b"one", "config.yaml": b"a: 1"})])
    assert view().file(RUN, "figures/weights.png", tmp_path / "down") == b"one"
    connect().publish([TrackedRun("", files={"figures/weights.png": b"two"})])
    assert view().file(RUN, "figures/weights.png", tmp_path / "down") == b"two"
    assert view().file(RUN, "config.yaml", tmp_path / "down") == b"a: 1"
    stored = Path(tracked_storage.full("mlflow-artifacts"))
    assert [path.name for path in sorted(stored.rglob("*.*"))] == ["config.yaml", "weights.png"]


def test_a_finished_run_is_running_again_while_something_new_is_written(connect: Connect, view: View) -> None:
    connect().publish([replace(WHOLE_RUN[0], status="FAILED"), WHOLE_RUN[1]])
    runs = connect()
    runs.publish([replace(WHOLE_RUN[0], status="RUNNING"), WHOLE_RUN[1]])
    assert view().run(RUN).info.status == "FAILED"
    runs.publish([reading(dataset("new", "ef" * 32))])
    assert view().run(RUN).info.status == "RUNNING"
    runs.publish([TrackedRun("", status="FINISHED")])
    assert view().run(RUN).info.status == "FINISHED"


def test_runs_of_one_experiment_do_not_mix(connect: Connect, view: View) -> None:
    connect().publish([losses([100])])
    connect("quickstart-ffffffff").publish([losses([50])])
    names = sorted((run.data.tags["mixray.run"], run.info.run_name) for run in view().runs)
    assert names == [
        (RUN, PROXY),
        (RUN, RUN),
        ("quickstart-ffffffff", PROXY),
        ("quickstart-ffffffff", "quickstart-ffffffff"),
    ]


def test_what_mlflow_refuses_is_reported_once_and_blocks_nothing(connect: Connect, view: View) -> None:
    warnings: list[str] = []
    bad = TrackedRun("", {"seed": "0"}, points=(Point("100 %?", 1.0, 0),))
    connect(warn=warnings.append).publish([bad, bad, losses([0])])
    assert len(warnings) == 1
    assert "MLflow refused a record of quickstart-1a2b3c4d" in warnings[0]
    assert "100 %?" in warnings[0]
    mlflow = view()
    assert mlflow.run(RUN).data.params == {"seed": "0"}
    assert mlflow.history(PROXY, "loss") == [(0, 10.0)]


def test_a_file_that_is_not_a_database_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("this is not a database\n" * 100)
    with pytest.raises(Unreachable, match="not a database"):
        MlflowRuns(Destination(f"sqlite:///{path}", "quickstart", RUN, None, ""), pytest.fail)


def test_an_experiment_in_the_bin_is_reported_as_it_is(connect: Connect, view: View) -> None:
    connect()
    mlflow = view()
    mlflow.client.delete_experiment(mlflow.experiment.experiment_id)
    warnings: list[str] = []
    connect(warn=warnings.append).publish([TrackedRun("", {"seed": "0"})])
    assert "deleted" in warnings[0]


def test_an_experiment_opens_in_the_view_of_training_runs(connect: Connect, view: View) -> None:
    connect()
    assert view().experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_model_is_listed_once_with_where_it_is(connect: Connect, view: View) -> None:
    record = TrackedRun(PROXY, model=TrackedModel("proxy-python", "/store/artifacts/proxy/1"))
    for _ in range(2):
        connect().publish([record])
    mlflow = view()
    (model,) = mlflow.client.search_logged_models([mlflow.experiment.experiment_id])
    assert (model.name, model.tags["location"]) == ("proxy-python", "/store/artifacts/proxy/1")
    assert (str(model.status), model.source_run_id) == ("READY", mlflow.run(PROXY).info.run_id)


def test_a_table_is_marked_as_one(connect: Connect, view: View) -> None:
    content = json.dumps({"columns": ["arm", "held_out"], "data": [["mixmin", 4.0]]}).encode()
    connect().publish([TrackedRun("", files={"comparison.json": content}, tables=("comparison.json",))])
    mlflow = view()
    tags = mlflow.run(RUN).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "comparison.json", "type": "table"}]


def test_a_model_whose_publication_was_interrupted_is_listed_once(
    connect: Connect, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run was killed, or the server died, between the model's creation and its being named as the run's."""
    record = TrackedRun(PROXY, model=TrackedModel("proxy-python", "/store/artifacts/proxy/1"))
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_outputs", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
        with pytest.raises(Unreachable):
            connect().publish([record])
    connect().publish([record])
    mlflow = view()
    assert len(mlflow.client.search_logged_models([mlflow.experiment.experiment_id])) == 1
    (output,) = mlflow.run(PROXY).outputs.model_outputs
    assert mlflow.client.get_logged_model(output.model_id).name == "proxy-python"


def test_a_model_says_where_its_files_are_now(connect: Connect, view: View) -> None:
    for place in ("/store", "/elsewhere"):
        connect().publish([TrackedRun(PROXY, model=TrackedModel("proxy-python", f"{place}/artifacts/proxy/1"))])
    mlflow = view()
    (model,) = mlflow.client.search_logged_models([mlflow.experiment.experiment_id])
    assert model.tags["location"] == "/elsewhere/artifacts/proxy/1"
