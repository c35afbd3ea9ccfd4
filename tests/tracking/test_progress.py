from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from mixray.progress import BarProgress, LineProgress, SilentProgress, TimeLeft, describe, open_progress


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Flushed(io.StringIO):
    """A stream that knows how much of it has been flushed."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> Flushed:
    return Flushed()


def test_elsewhere_than_on_a_terminal_every_event_is_a_line(stream: Flushed, clock: Clock) -> None:
    with LineProgress(stream, clock).stage("proxies", 2) as stage:
        stage.note("cpp cached")
        stage.update("python", 80, 200, loss=6.2134, tokens_per_second=5012.4)
        clock.now = 64
        stage.update("python", 200, 200, loss=5.1, tokens_per_second=4800.0)
    assert stream.flushed.splitlines() == [
        "[proxies] begins, 2 to do",
        "[proxies] cpp cached",
        "[proxies] python 40 % loss 6.213 5,012 tokens/s",
        "[proxies] python 100 % loss 5.1 4,800 tokens/s 107 s left",
        "[proxies] done after 64 s",
    ]


def test_lines_are_flushed_as_they_come(stream: Flushed, clock: Clock) -> None:
    with LineProgress(stream, clock).stage("data") as stage:
        stage.update("python", 0, 10)
        assert stream.flushed.endswith("[data] python 0 %\n")


def shares_printed(stream: Flushed) -> list[str]:
    return [line.split()[2] for line in stream.getvalue().splitlines() if " %" in line]


def test_a_busy_key_gets_a_line_for_every_quarter(stream: Flushed, clock: Clock) -> None:
    with LineProgress(stream, clock).stage("proxies") as stage:
        for done in range(101):
            stage.update("python", done, 100)
    assert shares_printed(stream) == ["0", "25", "50", "75", "100"]


def test_a_slow_key_gets_a_line_every_ten_seconds(stream: Flushed, clock: Clock) -> None:
    with LineProgress(stream, clock).stage("proxies") as stage:
        for done in range(12):
            stage.update("python", done, 1000)
            clock.now += 4
    assert shares_printed(stream) == ["0", "0", "1", "1"]


def test_the_end_is_printed_once(stream: Flushed, clock: Clock) -> None:
    with LineProgress(stream, clock).stage("proxies") as stage:
        for _ in range(3):
            stage.update("python", 7, 7)
            clock.now += 60
    assert shares_printed(stream) == ["100"]


def test_a_key_that_begins_again_says_so(stream: Flushed, clock: Clock) -> None:
    with LineProgress(stream, clock).stage("proxies") as stage:
        for done in (10, 60, 50, 60, 100):
            stage.update("python", done, 100)
    assert shares_printed(stream) == ["10", "60", "50", "100"]


def times_left(*updates: tuple[float, str, float, float], total: int | None) -> list[str]:
    """Updates: when (seconds after the stage's begin), key, done, of how much."""
    time_left = TimeLeft(total, 0.0)
    return [time_left.update(key, done, of, now) for now, key, done, of in updates]


def test_the_time_left_follows_from_what_is_done() -> None:
    """Two proxies, of which one at a time trains for 100 s after 60 s in which its process starts."""
    updates = [(60, "a", 1, 100), (85, "a", 26, 100), (159, "a", 100, 100), (160, "b", 1, 100), (259, "b", 100, 100)]
    assert times_left(*updates, total=2) == ["", "2.9 min left", "100 s left", "100 s left", ""]


def test_of_resumed_training_only_what_is_done_now_counts() -> None:
    assert times_left((10, "a", 80, 100), (20, "a", 90, 100), total=1) == ["", "10 s left"]


def test_the_first_of_a_few_units_counts_from_the_begin_of_the_stage() -> None:
    assert times_left((30, "zoo", 1, 1), total=3) == ["60 s left"]
    assert times_left((0, "a", 0, 2), (0, "b", 0, 2), (10, "a", 1, 2), total=None) == ["", "", "30 s left"]
    assert times_left((10, "scan", 1, 5), (20, "scan", 2, 5), total=None) == ["40 s left", "30 s left"]


def test_training_that_begins_again_takes_its_time_again() -> None:
    assert times_left((0, "a", 1, 101), (50, "a", 51, 101), (60, "a", 41, 101), total=1)[2] == "72 s left"


@pytest.mark.parametrize("total", [None, 0, 1])
def test_a_stage_at_its_end_has_no_time_left(total: int | None) -> None:
    assert times_left((10, "a", 1, 1), total=total) == [""]


def test_fewer_keys_than_the_stage_began_with_may_be_expected(stream: Flushed, clock: Clock) -> None:
    with LineProgress(stream, clock).stage("retrain", 5) as stage:
        stage.expect(2)
        clock.now = 30
        stage.update("natural", 1, 1)
    assert "[retrain] natural 100 % 30 s left" in stream.flushed


def test_a_stage_that_fails_has_stopped(stream: Flushed, clock: Clock) -> None:
    with pytest.raises(ValueError, match="diverged"), LineProgress(stream, clock).stage("proxies"):
        raise ValueError("diverged")
    assert stream.getvalue().splitlines() == ["[proxies] begins", "[proxies] stopped"]


def test_a_warning_is_a_line(stream: Flushed) -> None:
    open_progress(stream).warn("the fit part has only 12 documents")
    assert stream.flushed == "warning: the fit part has only 12 documents\n"


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, ""),
        ({"loss": 6.2134}, "loss 6.213"),
        ({"gap": 3.21e-10}, "gap 3.21e-10"),
        ({"documents": 12345}, "documents 12,345"),
        ({"tokens_per_second": 5012.4}, "5,012 tokens/s"),
        ({"held_out": "yes [or no]"}, "held out yes [or no]"),
    ],
)
def test_facts_are_described_by_name(facts: dict[str, float | int | str], text: str) -> None:
    assert describe(facts) == text


def test_bars_say_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr("mixray.progress.time.monotonic", clock)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with BarProgress(console).stage("cache", 9) as stage:
        stage.expect(2)
        clock.now = 30
        stage.update("animals", 1, 1)
        stage.update("colours", 0, 1)
    assert "30 s left" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 2" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_gets_bars_and_keeps_one_line_a_stage() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = BarProgress(console)
    with progress.stage("proxies", 2) as stage:
        stage.note("cpp [cached]")
        stage.update("python", 40, 100, loss=6.2134)
        stage.update("python", 100, 100)
        progress.warn("wiki is [short]")
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "cpp [cached]" in output
    assert "wiki is [short]" in output
    assert "proxies" in output.splitlines()[-1] or "done" in output


def test_silence_keeps_warnings(caplog: pytest.LogCaptureFixture) -> None:
    progress = SilentProgress()
    with progress.stage("proxies", 3) as stage:
        stage.update("python", 1, 2)
        stage.note("nothing to see")
    progress.warn("few documents")
    assert caplog.record_tuples == [("mixray", logging.WARNING, "few documents")]
