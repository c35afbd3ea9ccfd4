"""Limits that no mixture keeps are refused before training, also those of targets that leave a source out."""

from __future__ import annotations

import pytest

from mixray.config import RunConfig, parse_config
from mixray.errors import InputError
from mixray.search import require_mixtures

AVAILABLE = {"a": 1_000, "b": 100, "c": 100}


def configure(*overrides: str) -> RunConfig:
    text = """
name: demo
examples: {label: y, numeric: [x]}
sources: {a: {csv: a.csv}, b: {csv: b.csv}, c: {csv: c.csv}}
targets: {a: {csv: a.csv, leave_out: a}, b: {csv: b.csv, leave_out: b}, all: {csv: all.csv}}
proxy: {model: {head: linear}, tokens: 800}
retrain: {model: {head: linear}, tokens: 800}
"""
    return parse_config(text, overrides)


def test_limits_are_those_of_the_sources_that_a_target_keeps() -> None:
    require_mixtures(configure(), AVAILABLE)
    bounds = configure("mixture.bounds={b: [0, 0.3], c: [0, 0.6]}")
    for available in (None, AVAILABLE):
        with pytest.raises(InputError, match="for the target a, which leaves out a") as caught:
            require_mixtures(bounds, available)
        assert "c at most 0.6" in str(caught.value.got)
    epochs = configure("mixture.max_epochs=2")
    require_mixtures(epochs)
    with pytest.raises(InputError, match="for the target a, which leaves out a"):
        require_mixtures(epochs, AVAILABLE)  # 200 examples, of which 800 would be four epochs
    require_mixtures(configure("mixture.max_epochs=2", "targets={all: {csv: all.csv}}"), AVAILABLE)


@pytest.mark.parametrize("key", ["max_tokens: 5", "label: z", "where: {x: 1}", "is_retrained: false"])
def test_each_source_has_no_rows_of_its_own(key: str) -> None:
    configure("targets={each_source: {held_out: 0.3}}")
    with pytest.raises(InputError, match=f"targets.each_source.{key.split(':')[0]} is not valid"):
        configure(f"targets={{each_source: {{held_out: 0.3, {key}}}}}")
