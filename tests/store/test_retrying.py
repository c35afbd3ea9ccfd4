"""What is tried again, how often, and what is said about it."""

from __future__ import annotations

import pytest

from mixray.errors import InputError, MixrayError, StageError
from mixray.store import retrying
from mixray.store.retrying import TRIES, retried


class Work:
    """Fails with an error for a number of times, and then returns 7."""

    def __init__(self, error: Exception, failures: int) -> None:
        self.error, self.failures, self.calls = error, failures, 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls > self.failures:
            return 7
        if isinstance(self.error, MixrayError):
            raise self.error from self.error.__cause__
        raise self.error


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(retrying.time, "sleep", waited.append)
    return waited


def caused(cause: Exception | None) -> InputError:
    error = InputError("a file cannot be read", got="a.jsonl")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [OSError("SlowDown"), TimeoutError("no answer"), caused(OSError("SlowDown"))])
@pytest.mark.parametrize("failures", range(TRIES))
def test_what_may_pass_is_tried_again(error: Exception, failures: int, pauses: list[float]) -> None:
    work, notes = Work(error, failures), list[str]()
    assert retried(work, notes.append) == 7
    assert work.calls == failures + 1
    assert pauses == [1.0, 2.0, 4.0][:failures]
    text = "no answer" if isinstance(error, TimeoutError) else "SlowDown"
    assert notes == [f"reading or writing failed and is tried again in {pause:g} s: {text}" for pause in pauses]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            OSError("SlowDown"),
            StageError,
            r"reading or writing failed\n  got: SlowDown \(4 times\)\n  remedy: run again",
        ),
        (caused(OSError("SlowDown")), InputError, "a file cannot be read"),
    ],
)
def test_what_does_not_pass_is_an_error_in_the_end(
    error: Exception, kind: type[Exception], message: str, pauses: list[float]
) -> None:
    work = Work(error, 99)
    with pytest.raises(kind, match=message):
        retried(work, lambda _: None)
    assert (work.calls, len(pauses)) == (TRIES, TRIES - 1)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("a"),
        PermissionError("a"),
        caused(FileNotFoundError("a")),
        caused(ValueError("a")),
        caused(None),
        ValueError("a"),
    ],
)
def test_what_would_come_again_is_raised_at_once(error: Exception, pauses: list[float]) -> None:
    work = Work(error, 1)
    with pytest.raises(type(error)):
        retried(work, lambda _: None)
    assert (work.calls, pauses) == (1, [])
