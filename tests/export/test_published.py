"""Mixtures that others publish, in each format; and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixray.errors import InputError
from mixray.export import read_mixture
from mixray.mixture import Mixture

OLMIX = """
name: heavy-code
mix:
  dclm:
    weight: 0.8
    software: {weight: 0.625, repetition_factor: 1.0}
    science: {weight: 0.375, repetition_factor: 1.0}
  wiki: {weight: 0.2, repetition_factor: 2.0}
"""
FORMATS: dict[str, tuple[str, str, dict[str, float]]] = {
    "DoReMi": (
        "weights.json",
        json.dumps({"train_domain_weights": {"a": 0.25, "b": 0.75}, "eval_domain_weights": {"a": 0.5, "b": 0.5}}),
        {"a": 0.25, "b": 0.75},
    ),
    "a number that YAML would read as text": ("plain.json", '{"a": 1e-05, "b": 0.99999}', {"a": 1e-5, "b": 0.99999}),
    "RegMix": ("regmix.yaml", "train: {a: 0.25, b: 0.75}\nvalid: {a: 1.0}\nmodel_name: m\n", {"a": 0.25, "b": 0.75}),
    "Olmix": ("olmix.yaml", OLMIX, {"dclm:software": 0.5, "dclm:science": 0.3, "wiki": 0.2}),
    "OLMo-core": (
        "olmo.yaml",
        "sources:\n- {source_name: a, target_ratio: 0.25, paths: [x]}\n- {source_name: b, target_ratio: 0.75}\n",
        {"a": 0.25, "b": 0.75},
    ),
    "Levanter": ("levanter.yaml", "data:\n  components: {}\n  train_weights: {a: 1, b: 3}\n", {"a": 0.25, "b": 0.75}),
    "plain": ("plain.yaml", "a: 0.25\nb: 0.75\n", {"a": 0.25, "b": 0.75}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_published_mixture_is_read(name: str, tmp_path: Path) -> None:
    filename, text, shares = FORMATS[name]
    (tmp_path / filename).write_text(text)
    mixture, warnings = read_mixture(str(tmp_path / filename))
    assert list(mixture.weights) == list(shares)
    assert mixture.weights == pytest.approx(shares, rel=1e-12)
    assert ["sum to 4" in line for line in warnings] == ([True] if name == "Levanter" else [])


@pytest.mark.parametrize("trainer", ["olmix", "olmo-core", "levanter"])
def test_what_is_exported_is_read_again(trainer: str, mixture: Mixture, tmp_path: Path) -> None:
    exported = mixture.export(
        trainer, paths={name: f"data/{name}" if trainer == "olmo-core" else name for name in mixture.sources}
    )
    path = tmp_path / "exported.yaml"
    exported.save(path)
    again, warnings = read_mixture(str(path))
    assert again.weights == pytest.approx({name: share for name, share in mixture.weights.items() if share})
    assert warnings == []


def test_a_mixture_file_is_read_whole(mixture: Mixture, tmp_path: Path) -> None:
    mixture.save(tmp_path / "news.json")
    assert read_mixture(str(tmp_path / "news.json")) == (mixture, [])


WRONG: dict[str, tuple[str, str]] = {
    "broken": ("a: [", "cannot be read"),
    "a list": ("- a\n- b\n", "not a valid mixture in any format"),
    "empty": ("", "not a valid mixture in any format"),
    "text": ("a: many\nb: 0.5\n", r"not a number from 0 up[\s\S]*'many'"),
    "text in Olmix": ("mix: {a: {b: {weight: many}}}\n", r"where: .*wrong.yaml: a:b[\s\S]*'many'"),
    "negative": ("a: -0.5\nb: 1.5\n", "not a number from 0 up"),
    "infinite": ("a: .inf\nb: 1.5\n", "not a number from 0 up"),
    "zero": ("a: 0\nb: 0\n", "no shares above 0"),
    "phases": ("data: {train_weights: [[0, {a: 1}], [9, {b: 1}]]}", r"change during the training[\s\S]*2 phases"),
    "no ratio": ("sources: [{source_name: a}]", "lacks its name or ratio"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_mixture_is_refused(name: str, tmp_path: Path) -> None:
    text, message = WRONG[name]
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_mixture(str(path))


def test_a_weight_of_olmix_may_be_a_plain_number(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text("mix: {dclm: 0.7, code: {weight: 0.3}}")
    assert read_mixture(str(path))[0].weights == {"dclm": 0.7, "code": 0.3}
