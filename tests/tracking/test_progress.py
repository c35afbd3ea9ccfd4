from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from mixray.progress import BarProgress, LineProgress, SilentProgress, describe, open_progress


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
        "[proxies] python 100 % loss 5.1 4,800 tokens/s",
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
