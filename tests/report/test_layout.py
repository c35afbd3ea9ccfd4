from __future__ import annotations

import io

import pytest
from rich.console import RenderableType
from rich.text import Text

from mixray.mixture import Mixture
from mixray.report.layout import (
    count_text,
    counted,
    difference_text,
    new_table,
    percent,
    print_report,
    share_text,
    small_text,
)
from mixray.report.tables import ArmShares, closing_report


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def written(part: RenderableType, stream: io.StringIO) -> list[str]:
    print_report([part], stream)
    return Text.from_ansi(stream.getvalue()).plain.splitlines()


def test_a_pipe_gets_every_line_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sentence = " ".join(["words"] * 100)
    assert written(sentence, io.StringIO()) == [sentence]


@pytest.mark.parametrize("columns", ["20", "40", "60"])
def test_a_narrow_terminal_gets_every_number_whole(
    mixture: Mixture, arm_shares: ArmShares, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    text = "\n".join(written(closing_report(mixture, arm_shares), Terminal()))
    for number in ("57.1 to 69.1 %", "+0.1200 to +0.1580", "3.2112", "+9.26 %", "1.86"):
        assert number in text
    assert "…" not in text


def test_text_wraps_at_the_width_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    table = new_table("source", "share")
    table.add_row("a_source_with_a_name_of_many_letters_" * 2, "62.1 %")
    lines = written("word " * 30, Terminal()) + written(table, Terminal())
    assert max(map(len, lines)) <= 40
    assert any("62.1 %" in line for line in lines)


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (3.2e-10, "3.2e-10")])
def test_small_values(value: float, text: str) -> None:
    assert small_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (0.1391, "+0.1391"), (-0.02, "-0.0200")])
def test_differences(value: float, text: str) -> None:
    assert difference_text(value) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 rounds"), (1, "1 round"), (1200, "1,200 rounds")])
def test_numbers_with_their_noun(number: int, text: str) -> None:
    assert counted(number, "round") == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1e-9, "< 0.1 %"), (0.0005, "0.1 %"), (0.62134, "62.1 %"), (1, "100.0 %")]
)
def test_shares(share: float, text: str) -> None:
    assert share_text(share) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.001586, "0.159 %"), (0.0041, "0.41 %"), (0.066, "6.6 %"), (2.5, "250.0 %"), (1e-5, "0.001 %")],
)
def test_percentages(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (12_345, "12.3 k"),
        (200_000, "200 k"),
        (2e6, "2.00 M"),
        (3e11, "300 G"),
    ],
)
def test_counts(count: float, text: str) -> None:
    assert count_text(count) == text
