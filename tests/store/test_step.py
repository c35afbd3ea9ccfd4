"""A step runs only where the store lacks its artifact, and all missing ones run by one call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mixray.errors import InputError
from mixray.store import Artifact, Artifacts, Draft, Step, Storage, find_or_make, fingerprint


@dataclass(frozen=True)
class Squares(Step[int, int]):
    kind = "squares"
    numbers: tuple[int, ...]

    @property
    def id(self) -> str:
        return fingerprint(sorted(self.numbers))

    def tasks(self, draft: Draft) -> list[int]:
        return list(self.numbers)

    @staticmethod
    def run(task: int) -> int:
        return task**2

    def publish(self, draft: Draft, results: Sequence[int]) -> Artifact:
        return draft.publish({}, {"squares": list(results)})

    def check(self, artifact: Artifact) -> None:
        if not artifact.meta["squares"]:
            raise InputError("there are no numbers")


class Calls:
    """``run_tasks`` in this process, which counts the items of each call."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def __call__(self, function: Callable[[Any], Any], items: Sequence[Any], label: str) -> Iterator[Any]:
        assert label == "squares"
        self.items.append(len(items))
        return map(function, items)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(Storage(str(tmp_path)), "attempt")


def test_missing_artifacts_are_made_by_one_call_and_stored_ones_by_none(artifacts: Artifacts) -> None:
    calls = Calls()
    steps = {"one": Squares((1, 2, 3)), "two": Squares((4,)), "like one": Squares((3, 2, 1))}
    first = find_or_make(steps, artifacts, calls, "squares")
    assert {name: sorted(artifact.meta["squares"]) for name, artifact in first.items()} == {
        "one": [1, 4, 9],
        "two": [16],
        "like one": [1, 4, 9],
    }
    assert calls.items == [4]
    assert find_or_make(steps, artifacts, calls, "squares") == first
    more = find_or_make(steps | {"three": Squares((5, 6))}, artifacts, calls, "squares")
    assert more["three"].meta["squares"] == [25, 36]
    assert calls.items == [4, 2]


def test_an_artifact_is_published_before_the_next_one_fails(artifacts: Artifacts) -> None:
    def fail_at_four(function: Callable[[Any], Any], items: Sequence[Any], _: str) -> Iterable[Any]:
        for item in items:
            if item[1] == 4:
                raise OSError("worker lost")
            yield function(item)

    one, two = Squares((1, 2)), Squares((4,))
    with pytest.raises(OSError, match="worker lost"):
        find_or_make({"one": one, "two": two}, artifacts, fail_at_four, "squares")
    assert artifacts.find("squares", one.id) is not None
    assert artifacts.find("squares", two.id) is None


def test_a_stored_artifact_is_checked_too(artifacts: Artifacts) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="there are no numbers"):
            find_or_make({"none": Squares(())}, artifacts, Calls(), "squares")
    assert artifacts.find("squares", Squares(()).id) is not None
