"""A run's results: the folder's name, its files, and every form of its location."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixray.config import RobustConfig, RunConfig, load_config, parse_config
from mixray.errors import CorruptedArtifactError, InputError, Interrupted, StageError
from mixray.mixture import ArmResult, Mixture
from mixray.runs import MixtureRun, RobustRun, is_finished, open_run
from mixray.store import Artifact
from tests.report.test_robust_tables import results

ROBUST = Path(__file__).parents[1] / "jobs" / "robust_digits.yaml"
MakeConfig = Callable[..., RunConfig]
MIXTURE = Mixture(sources=["python", "cpp"], weights={"python": 1 / 3, "cpp": 2 / 3}, targets=["docs"], gap=1e-9)


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    text = """
name: demo
tokenizer: {train: {}}
window: 8
sources: {python: {files: "*.py"}, cpp: {files: "*.h"}}
targets: {docs: {files: "*.txt"}}
proxy: {model: {architecture: gpt_neox}, tokens: 1_000}
retrain: {model: {architecture: gpt_neox}, tokens: 2_000}
"""
    return lambda **overrides: parse_config(text, {"storage": str(tmp_path / "store"), **overrides})


@pytest.fixture
def folder(make_config: MakeConfig) -> MixtureRun:
    return MixtureRun.create(make_config())


# ------------------------------------------------------------------------------------------- its name


def test_a_run_is_named_by_its_file_and_what_stands_in_it(folder: MixtureRun, tmp_path: Path) -> None:
    assert re.fullmatch(r"demo-[0-9a-f]{8}", folder.name)
    assert folder.location == str(tmp_path / "store" / "runs" / folder.name)
    assert folder.artifacts.attempt.startswith(f"{folder.name}.")
    assert folder.artifacts.attempt != open_run(folder.location).artifacts.attempt


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ({}, True),
        ({"proxy.tokens": 1000.0, "mixture": {}}, True),  # written otherwise, meaning the same
        ({"tracking.uri": "sqlite:///x.db", "tracking.experiment": "x"}, True),
        ({"proxy.resources.cpus": 2, "proxy.max_restarts": 9, "cache.resources.cpus": 2, "cache.actors": 3}, True),
        ({"retrain.resources_per_worker.gpus": 1, "retrain.max_failures": 9}, True),
        ({"retrain.replicates": 1}, True),
        ({"retrain.replicates": 2}, False),
        ({"retrain.arms": ["mixmin", {"name": "own", "shares": {"python": 0.5, "cpp": 0.5}}]}, False),
        ({"seed": 1}, False),
        ({"sources.rust.files": "*.rs"}, False),
        ({"mixture.tolerance": 1e-7}, False),
        ({"retrain.tokens": 4000}, False),
        ({"proxy.model.hidden_size": 64}, False),
    ],
)
def test_its_name_hangs_on_what_is_computed_alone(
    folder: MixtureRun, make_config: MakeConfig, overrides: dict[str, Any], same: bool
) -> None:
    assert (MixtureRun.create(make_config(**overrides)).name == folder.name) == same


def test_its_name_depends_on_no_user_and_no_order_of_options(make_config: MakeConfig) -> None:
    names = [
        MixtureRun.create(make_config(**{"sources.cpp.files": f"s3://{uri}"})).name
        for uri in (
            "bucket/*.h?region=eu&scheme=http",
            "me@bucket/*.h?scheme=http&region=eu",
            "bucket/*.h?region=us&scheme=http",
        )
    ]
    assert names[0] == names[1] != names[2]


def test_its_name_does_not_depend_on_its_storage(folder: MixtureRun, make_config: MakeConfig, tmp_path: Path) -> None:
    elsewhere = MixtureRun.create(make_config(storage=str(tmp_path / "elsewhere")))
    assert elsewhere.name == folder.name
    assert elsewhere.location != folder.location


# -------------------------------------------------------------------------------------------- opening


def test_a_folder_is_opened_with_the_config_that_made_it(make_config: MakeConfig) -> None:
    made = MixtureRun.create(make_config(**{"mixture.tolerance": 1e-9, "sources.python.text": "3e-3", "name": "1e5"}))
    opened = MixtureRun.open(made.location)
    assert opened.config == made.config
    assert (opened.name, opened.location) == (made.name, made.location)


@pytest.mark.parametrize(
    ("form", "directory"),
    [
        ("{store}/runs/{name}", "/"),
        ("{store}/runs/{name}/", "/"),
        ("file://{store}/runs/{name}", "/"),
        ("store/runs/{name}", "{store}/.."),
        ("./runs/{name}", "{store}"),
        ("runs/{name}", "{store}"),
        ("runs/{name}//", "{store}"),
        ("../runs/{name}", "{store}/runs"),
        ("~/runs/{name}", "/"),
    ],
)
def test_every_form_of_its_location_opens_it(
    folder: MixtureRun, monkeypatch: pytest.MonkeyPatch, form: str, directory: str
) -> None:
    store = folder.storage.full("")
    monkeypatch.setenv("HOME", store)
    monkeypatch.chdir(directory.format(store=store))
    folder.save_mixture("docs", MIXTURE)
    opened = MixtureRun.open(form.format(store=store, name=folder.name))
    monkeypatch.chdir("/")
    assert opened.name == folder.name
    assert opened.mixtures() == {"docs": MIXTURE}


def test_a_folder_of_any_name_holds_runs(make_config: MakeConfig, tmp_path: Path) -> None:
    for name in ("what?", "a b", "x/runs", "runs/runs"):
        made = MixtureRun.create(make_config(storage=str(tmp_path / name)))
        assert MixtureRun.open(made.location).location == made.location


def test_a_run_in_object_storage_is_opened_by_its_uri_and_query(make_config: MakeConfig, s3_uri: str) -> None:
    made = MixtureRun.create(make_config(storage=s3_uri))
    made.save_mixture("docs", MIXTURE)
    root, _, query = s3_uri.partition("?")
    assert made.location == f"{root}/runs/{made.name}?{query}"
    for slash in ("", "/"):
        opened = MixtureRun.open(f"{root}/runs/{made.name}{slash}?{query}")
        assert (opened.config, opened.mixtures()) == (made.config, {"docs": MIXTURE})


@pytest.mark.parametrize(
    ("location", "got"),
    [
        ("", "its parent is not named 'runs'"),
        ("demo-12345678", "its parent is not named 'runs'"),
        ("{store}", "its parent is not named 'runs'"),
        ("{store}/runs", "its parent is not named 'runs'"),
        ("{store}/runs/{name}/mixtures", "its parent is not named 'runs'"),
        ("{store}/runs/{name}/config.yaml", "its parent is not named 'runs'"),
        ("s3://runs/{name}", "its parent is not named 'runs'"),
        ("{store}/runs/nothing-12345678", "no config.yaml in it"),
        ("/runs/nothing-12345678", "no config.yaml in it"),
    ],
)
def test_what_is_no_run_folder_is_refused(folder: MixtureRun, location: str, got: str) -> None:
    location = location.format(store=folder.storage.full(""), name=folder.name)
    with pytest.raises(InputError, match="this is not a valid run folder") as caught:
        MixtureRun.open(location)
    assert (caught.value.where, caught.value.got) == (location, got)
    assert "<storage>/runs/<name>-<hash>" in str(caught.value.wanted)


def test_runs_at_the_root_of_the_machine_are_not_those_of_this_directory(
    folder: MixtureRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.storage.full(""))
    with pytest.raises(InputError, match="this is not a valid run folder"):
        MixtureRun.open(f"/runs/{folder.name}")


@pytest.mark.parametrize(
    ("content", "what", "line"),
    [
        (b"name: demo\nsed: 1\n", "this is not a valid run file", ""),
        (b"name: demo\nwindow: 8\n", "the key 'sources' is missing", ""),
        (b"a: [", "the run file is not valid YAML", ", line 1"),
    ],
)
def test_a_broken_config_in_it_is_named(folder: MixtureRun, content: bytes, what: str, line: str) -> None:
    folder.storage.write(f"{folder.path}/config.yaml", content)
    with pytest.raises(InputError) as caught:
        MixtureRun.open(folder.location)
    assert (caught.value.what, caught.value.where) == (what, f"{folder.location}/config.yaml{line}")


def test_a_config_that_is_not_text_cannot_be_read(folder: MixtureRun) -> None:
    folder.storage.write(f"{folder.path}/config.yaml", b"\xff\xfe")
    with pytest.raises(InputError, match="the run folder cannot be read") as caught:
        MixtureRun.open(folder.location)
    assert caught.value.where == folder.location


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="the storage cannot be written"):
        MixtureRun.create(make_config(storage=str(tmp_path / "file" / "store")))


# ------------------------------------------------------------------------------------------- contents


def test_mixtures_are_saved_and_read_back_to_the_last_bit(folder: MixtureRun) -> None:
    assert folder.mixtures() == {}
    other = Mixture.from_weights({"python": 0.1, "cpp": 0.9})
    folder.save_mixture("docs", MIXTURE)
    folder.save_mixture("tests", MIXTURE)
    folder.save_mixture("docs", other)
    folder.save_report("weights.svg", b"<svg/>")
    folder.storage.write(f"{folder.path}/mixtures/notes.txt", b"a person's")
    assert MixtureRun.open(folder.location).mixtures() == {"docs": other, "tests": MIXTURE}
    assert folder.storage.list(folder.path) == ["config.yaml", "mixtures", "report"]
    assert folder.storage.read(f"{folder.path}/report/weights.svg") == b"<svg/>"


def test_a_mixture_file_that_is_none_is_named(folder: MixtureRun) -> None:
    path = f"{folder.path}/mixtures/docs.json"
    folder.storage.write(path, b'{"schema": "mixray.mixture/2"}')
    with pytest.raises(InputError, match="this is not a valid mixture file") as caught:
        folder.mixtures()
    assert caught.value.where == folder.storage.location(path)


@pytest.fixture
def cached(folder: MixtureRun) -> tuple[dict[str, Artifact], dict[str, dict[str, Artifact]]]:
    """The artifacts of a prediction cache that the folder remembers."""

    def publish(kind: str, id: str) -> Artifact:
        draft = folder.artifacts.draft(kind, id)
        return draft.publish({"fit-00000.parquet": draft.write("fit-00000.parquet", id.encode())}, {"id": id})

    rows = {"docs": publish("rows", "r")}
    columns = {"docs": {"python": publish("column", "p"), "cpp": publish("column", "c")}}
    folder.save_cache(rows, columns, {"python": 12, "cpp": 7})
    return rows, columns


def test_the_prediction_cache_is_remembered_in_order(folder: MixtureRun, cached: Any) -> None:
    opened = MixtureRun.open(folder.location)
    rows, columns = opened.load_cache()
    assert (rows, columns) == cached
    assert list(columns["docs"]) == list(opened.available_tokens()) == ["python", "cpp"]
    assert opened.available_tokens() == {"python": 12, "cpp": 7}


def test_a_column_that_is_gone_is_named(folder: MixtureRun, cached: Any) -> None:
    assert cached
    folder.storage.delete_folder("artifacts/column/c")
    with pytest.raises(CorruptedArtifactError, match="the stored column c is corrupted"):
        folder.load_cache()


def test_a_run_that_has_no_cache_yet_says_so(folder: MixtureRun) -> None:
    for ask in (folder.available_tokens, lambda: folder.load_cache()):
        with pytest.raises(InputError, match="the run has no prediction cache yet") as caught:
            ask()
        assert caught.value.where == folder.location
        assert caught.value.remedy == "mixray run its run file again"


# ------------------------------------------------------------------------------------------- when it is finished


def test_a_run_is_finished_when_every_mixture_has_its_report(make_config: MakeConfig) -> None:
    assert not is_finished(make_config())
    run = MixtureRun.create(make_config())
    with_results = MIXTURE.model_copy(update={"retrain": {"mixmin": ArmResult(nll=1.0)}})
    steps: list[tuple[Callable[[], None], str | None]] = [
        (lambda: None, "data"),
        (lambda: run.save_mixture("code", with_results), "data"),  # a target that the run file does not have
        (lambda: run.save_cache({}, {}, {}), "mixture"),
        (lambda: run.save_mixture("docs", MIXTURE), "retrain"),
        (lambda: run.save_mixture("docs", with_results), "report"),
        (lambda: run.save_report("report.html", b""), None),
        (lambda: run.storage.write(f"{run.path}/mixtures/docs.json", b"{"), "damaged"),
    ]
    for step, next_stage in steps:
        step()
        if next_stage != "damaged":
            assert next((name for name, is_done in run.stages().items() if not is_done), None) == next_stage
        assert is_finished(make_config()) == (next_stage is None)
    assert not is_finished(make_config(seed=1))


def test_the_first_stages_are_known_from_the_index(make_config: MakeConfig) -> None:
    run = MixtureRun.create(make_config())
    artifact = run.artifacts.draft("proxy", "p").publish({}, {})
    run.index.add_pools({"python": artifact}, {"docs": artifact}, {"source python": {"documents": 1}})
    run.index.add({"proxy/python": artifact})
    assert [name for name, is_done in open_run(run.location).stages().items() if is_done] == ["data"]
    run.index.add({"proxy/cpp": artifact})
    assert [name for name, is_done in open_run(run.location).stages().items() if is_done] == ["data", "proxies"]


def test_an_interrupt_names_the_stage(make_config: MakeConfig) -> None:
    run = MixtureRun.create(make_config())
    message = "interrupted in retrain; the same command continues"
    with pytest.raises(Interrupted, match=message) as caught, run.stage("retrain"):
        raise KeyboardInterrupt
    assert caught.value.stage == "retrain"


def test_a_storage_that_does_not_answer_is_an_error_that_says_what_to_do(make_config: MakeConfig) -> None:
    run = MixtureRun.create(make_config())
    message = r"reading or writing failed\n  got: SlowDown\n  remedy: run again once"
    with pytest.raises(StageError, match=message), run.stage("retrain"):
        raise OSError("SlowDown")
    for lasting in (FileNotFoundError("a bug"), BrokenPipeError(errno.EPIPE, "the reader of the output has ended")):
        with pytest.raises(type(lasting)), run.stage("retrain"):
            raise lasting


def test_a_run_is_worked_on_once_at_a_time(make_config: MakeConfig) -> None:
    settings = {"tracking.uri": "http://127.0.0.1:9"}
    with MixtureRun.create(make_config(**settings)) as run:
        with (
            pytest.raises(InputError, match="another process works on this run") as caught,
            MixtureRun.create(run.config),
        ):
            pass
        assert caught.value.where == run.location
        with MixtureRun.create(make_config(**settings, seed=1)), run.stage("data"):
            pass
    with MixtureRun.create(run.config) as again, again.stage("data"):
        pass


def test_a_robust_comparison_is_opened_as_one_and_has_no_mixtures(tmp_path: Path) -> None:
    config = load_config(ROBUST, {"storage": str(tmp_path), "arms": ["erm"], "seeds": 1}, kind=RobustConfig)
    run = RobustRun.create(config)
    opened = open_run(run.location)
    assert isinstance(opened, RobustRun)
    assert opened.config == config
    assert opened.stages() == {"arms": False, "report": False}
    with pytest.raises(InputError, match="the run has no results yet"):
        opened.results()
    with pytest.raises(InputError, match="this run compares robust training"):
        MixtureRun.open(run.location)
    run.add_artifacts({"arm/erm-0": run.artifacts.draft("classifier", "c").publish({}, {})})
    assert open_run(run.location).stages() == {"arms": True, "report": False}
    run.save_results(results())
    assert opened.results() == results()
    assert is_finished(config)


def test_a_run_in_a_storage_that_is_a_file_is_not_finished(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert not is_finished(make_config(storage=str(tmp_path / "file")))


def test_a_run_in_a_storage_that_fails_every_time_is_not_finished(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixray.store.retrying.TRIES", 1)
    (tmp_path / "loop").symlink_to("loop")
    config = make_config(storage=str(tmp_path / "loop"))
    assert not is_finished(config)
    with pytest.raises(InputError, match="File exists"):
        MixtureRun.create(config)
