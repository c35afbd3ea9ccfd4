"""Which of the two kinds a run file is: the keys say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixray.config import RobustConfig, RunConfig, RunFile, dump_config, load_config, parse_config
from mixray.config.mixture import SegmentUnit
from mixray.errors import InputError
from tests.config.conftest import RUN_FILES


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
def test_the_kind_of_every_run_file_in_jobs_is_recognised(path: Path) -> None:
    kind = RobustConfig if path.name.startswith("robust_") else RunConfig
    assert type(load_config(path, kind=RunFile)) is kind


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("name: a\ndata: {digits: {}}\narms: [erm]", [], "exactly one of epochs, steps"),
        ("name: a\nsources: {}\nseeds: 3", [], "unknown key 'seeds'"),
        ("name: a\ntargets: {}\nsources: {}\ndata: {}", [], "unknown key 'data'"),
        ("name: a", ["data.digits={}"], "exactly one of epochs, steps"),
    ],
)
def test_errors_are_those_of_the_kind_that_most_keys_belong_to(text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_config(text, overrides, kind=RunFile)


@pytest.mark.parametrize("text", ["name: a\nseed: 1", "{}", "soruces: {}"])
def test_a_file_of_neither_kind_is_told_about_both(text: str) -> None:
    with pytest.raises(InputError, match="not a valid run file") as caught:
        parse_config(text, name="run.yaml", kind=RunFile)
    assert caught.value.where == "run.yaml"
    for key in ("sources", "targets", "data", "arms"):
        assert f"'{key}'" in str(caught.value.wanted)


EXAMPLES = """\
name: rows
examples: {numeric: [x], label: y}
sources: {a: {parquet: a.parquet}, b: {parquet: b.parquet}}
targets: {c: {parquet: c.parquet}}
proxy: {model: {head: linear}, tokens: 1000}
retrain: {model: {head: linear}, tokens: 1000}
"""


def test_likelihoods_can_be_over_segments_of_texts_but_not_of_examples(text: str) -> None:
    config = parse_config(text, ["mixture.unit={segment: 32}"])
    assert config.mixture.unit == SegmentUnit(segment=32)
    assert parse_config(dump_config(config)) == config
    with pytest.raises(InputError, match=r"mixture\.unit\.segment is not valid") as caught:
        parse_config(EXAMPLES, ["mixture.unit={segment: 16}"])
    assert caught.value.wanted == "document or window: an example is one row"
