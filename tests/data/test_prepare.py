"""The whole data stage on small files: what is made, what is made again, and what never is."""

import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixray.config.schema import RunConfig
from mixray.data import MixtureStream, Prepared, Windows, prepare
from mixray.store import Artifacts, Storage

KINDS = ["scan", "select", "sample", "tokenizer", "tokens"]
PYTHON = [f"def f{number}(x):\n    return x + {number}\n" for number in range(90)]
CPP = [f"int f{number}(int x) {{ return x + {number}; }}\n" for number in range(90)]
GOAL = [f"class C{number}: pass\n" for number in range(40)]


class Folder:
    """A run's inputs on disk."""

    def __init__(self, root: Path, make: Callable[..., RunConfig]) -> None:
        self.root, self.make = root, make
        self.pools = {"python": PYTHON, "cpp": CPP, "goal": GOAL}
        for name, texts in self.pools.items():
            self.write(name, texts)

    def write(self, name: str, texts: Sequence[str]) -> None:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        for number, text in enumerate(texts):
            (folder / f"{number:03d}.txt").write_text(text)

    def config(
        self, sources: Sequence[str] = ("python", "cpp"), targets: Sequence[str] = ("goal",), **more: Any
    ) -> RunConfig:
        pools = [{name: {"files": f"{self.root / name}/*.txt"} for name in names} for names in (sources, targets)]
        return self.make(*pools, **more)


@pytest.fixture
def folder(tmp_path: Path, run_config: Any) -> Folder:
    return Folder(tmp_path, run_config)


def silent(_: str) -> None:
    pass


def ids(prepared: Prepared) -> dict[str, str]:
    named = {"tokenizer": prepared.tokenizer, **prepared.sources, **prepared.targets}
    return {name: artifact.id for name, artifact in named.items()}


def test_a_first_run_makes_everything_and_a_second_nothing(folder: Folder, artifacts: Artifacts, mapper: Any) -> None:
    first = prepare(folder.config(), artifacts, mapper, silent)
    assert mapper.labels == KINDS
    mapper.labels.clear()
    assert prepare(folder.config(), Artifacts(artifacts.storage, "second"), mapper, silent) == first
    assert mapper.labels == []
    assert list(first.sources) == ["python", "cpp"]
    assert list(first.targets) == ["goal"]
    assert first.warnings == []


def test_golden_identities(folder: Folder, artifacts: Artifacts, mapper: Any) -> None:
    """Computed once by this code. They hang on text and settings alone, so neither the folder nor the machine nor the
    time changes them; a change of this list makes every user's store useless and wants a reason. The sources' changed
    when windows were stored with their checksums."""
    prepared = prepare(folder.config(), artifacts, mapper, silent)
    assert {name: id[:16] for name, id in ids(prepared).items()} == {
        "tokenizer": "f731a35593008b58",
        "python": "4a06e00cd83bc9a1",
        "cpp": "42132f44709a394e",
        "goal": "2ce5d9298b2bf5e5",
    }


def test_the_stream_of_what_was_made(folder: Folder, artifacts: Artifacts, mapper: Any) -> None:
    prepared = prepare(folder.config(), artifacts, mapper, silent)
    windows = {name: Windows(artifacts.storage, artifact) for name, artifact in prepared.sources.items()}
    stream = pickle.loads(pickle.dumps(MixtureStream(windows, {"python": 0.75, "cpp": 0.25}, 0)))
    tokens = stream.read(0, 40)
    assert tokens.shape == (40, 16)
    sources, indices = stream.locate(0, 40)
    for position in range(40):
        name = stream.source_names[sources[position]]
        assert (tokens[position] == windows[name].read(indices[position : position + 1])).all()
    assert np.bincount(sources).tolist() == [30, 10]


CHANGES: dict[str, tuple[Callable[[Folder], RunConfig], list[str], list[str]]] = {
    "touched files": (lambda folder: touch(folder), ["scan", "select"], []),
    "a moved folder": (lambda folder: move(folder), ["scan", "select"], []),
    "sources in another order": (lambda folder: folder.config(sources=["cpp", "python"]), [], []),
    "another name": (lambda folder: folder.config(name="other"), [], []),
    "a target that overlaps nothing": (
        lambda folder: add(folder, "target", ["new goal 1", "new 2", "new 3", "4", "5"]),
        ["scan", "select", "tokens"],
        [],
    ),
    "a target that overlaps a source": (
        lambda folder: add(folder, "target", [*CPP[:5], "new goal 1", "new 2", "new 3", "4", "5"]),
        KINDS,
        ["tokenizer", "cpp", "python", "goal"],
    ),
    "another document in a source": (lambda folder: more(folder, "cpp"), KINDS, ["tokenizer", "cpp", "python", "goal"]),
    "another document in a target": (lambda folder: more(folder, "goal"), ["scan", "select", "tokens"], ["goal"]),
    "another seed": (lambda folder: folder.config(seed=1), ["sample", "tokenizer"], ["tokenizer"]),
    "another window": (lambda folder: folder.config(window=32), ["tokens"], ["cpp", "python", "goal"]),
}


def touch(folder: Folder) -> RunConfig:
    for path in folder.root.glob("*/*.txt"):
        os.utime(path, (1, 1))
    return folder.config()


def move(folder: Folder) -> RunConfig:
    moved = folder.root / "moved"
    moved.mkdir()
    for name in folder.pools:
        (folder.root / name).rename(moved / name)
    folder.root = moved
    return folder.config()


def add(folder: Folder, name: str, texts: Sequence[str]) -> RunConfig:
    folder.write(name, texts)
    return folder.config(targets=["goal", name])


def more(folder: Folder, name: str) -> RunConfig:
    folder.write(name, [*folder.pools[name], "one more document"])
    return folder.config()


@pytest.mark.parametrize("case", CHANGES)
def test_what_a_change_makes_anew(case: str, folder: Folder, artifacts: Artifacts, mapper: Any) -> None:
    """(steps that run, artifacts with another id). Another seed gives another sample; here it holds all of the text, so
    that the tokenizer comes out the same and its users stay."""
    before = ids(prepare(folder.config(), artifacts, mapper, silent))
    mapper.labels.clear()
    change, labels, changed = CHANGES[case]
    after = ids(prepare(change(folder), artifacts, mapper, silent))
    assert mapper.labels == labels
    assert sorted(name for name in before if after[name] != before[name]) == sorted(changed)


def test_a_tokenizer_of_named_sources_outlives_a_new_source(folder: Folder, artifacts: Artifacts, mapper: Any) -> None:
    learned = {"train": {"vocab_size": 300, "sources": ["python"]}}
    before = ids(prepare(folder.config(["python"], tokenizer=learned), artifacts, mapper, silent))
    after = ids(prepare(folder.config(["python", "cpp"], tokenizer=learned), artifacts, mapper, silent))
    assert before.items() <= after.items()


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", KINDS)
@pytest.mark.parametrize("fails", [0, 1])
def test_a_run_that_dies_in_any_step_goes_on(
    step: str, fails: int, folder: Folder, artifacts: Artifacts, tmp_path: Path
) -> None:
    """The task dies after it has written; the same attempt writes over its leavings; the result is the same."""
    whole = prepare(folder.config(), Artifacts(Storage(str(tmp_path / "other")), "attempt"), run_all, silent)

    def dying(function: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            result = function(item)
            if label == step and number == min(fails, len(items) - 1):
                raise Killed
            yield result

    with pytest.raises(Killed):
        prepare(folder.config(), artifacts, dying, silent)
    again = prepare(folder.config(), artifacts, run_all, silent)
    assert again == whole
    for artifact in (again.tokenizer, *again.sources.values(), *again.targets.values()):
        assert artifacts.find(artifact.kind, artifact.id) == artifact


def run_all(function: Callable[[Any], Any], items: Sequence[Any], _: str) -> Iterator[Any]:
    return map(function, items)


def test_tasks_and_results_travel_and_a_repeated_task_changes_nothing(folder: Folder, artifacts: Artifacts) -> None:
    def travelling(function: Callable[[Any], Any], items: Sequence[Any], _: str) -> Iterator[Any]:
        for item in items:
            function_there, item_there = pickle.loads(pickle.dumps((function, item)))
            result = pickle.loads(pickle.dumps(function_there(item_there)))
            assert function(item) == result
            assert len(pickle.dumps(result)) < 10_000
            yield result

    prepared = prepare(folder.config(), artifacts, travelling, silent)
    assert len(prepared.sources) == 2


def test_warnings(folder: Folder, artifacts: Artifacts, mapper: Any) -> None:
    folder.write("twin", CPP)
    folder.write("mixed", [*PYTHON[:20], *GOAL[:10], *(f"other {number}" for number in range(20))])
    (folder.root / "mixed" / "x.txt").write_bytes(b"\xff")
    prepared = prepare(folder.config(["python", "cpp", "twin", "mixed"]), artifacts, mapper, silent)
    assert json.loads(json.dumps(prepared.warnings)) == prepared.warnings
    found = {warning["code"]: warning for warning in prepared.warnings}
    assert set(found) == {"identical_pools", "overlapping_pools", "source_in_target", "not_utf8"}
    assert found["identical_pools"]["pools"] == ["source cpp", "source twin"]
    assert found["overlapping_pools"]["pools"] == ["source python", "source mixed"]
    assert found["overlapping_pools"]["message"].startswith(
        "about 50% of the documents of the smaller of source python"
    )
    assert found["source_in_target"]["documents"] == 10
    assert found["not_utf8"]["message"] == "1 of 51 documents of source mixed are not UTF-8 and were skipped"
    assert prepared.sources["cpp"] == prepared.sources["twin"]


def test_counts(folder: Folder, artifacts: Artifacts, mapper: Any) -> None:
    folder.write("cpp", [*CPP, CPP[0], GOAL[0], "  "])
    events: list[str] = []
    prepared = prepare(folder.config(), artifacts, mapper, events.append)
    counts = prepared.counts["source cpp"]
    wanted = {"documents": 90, "documents_read": 92, "duplicates": 1, "in_target": 1, "skipped_empty": 1, "split": 0}
    assert wanted.items() <= counts.items()
    assert counts["bytes"] == sum(map(len, CPP))
    assert counts["tokens"] == counts["windows"] * 16 == prepared.sources["cpp"].meta["tokens"]
    goal = prepared.counts["target goal"]
    assert goal["fit_documents"] + goal["held_out_documents"] == goal["documents"] == 40
    assert goal["tokens"] == goal["fit_tokens"] + goal["held_out_tokens"]
    assert f"source cpp: 90 documents, {counts['bytes'] / 1e6:.1f} MB" in events
