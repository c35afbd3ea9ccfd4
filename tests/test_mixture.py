"""The mixture file: a round trip to the last bit, and every way in which a file is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mixray.errors import InputError
from mixray.mixture import Mixture, load_mixture

WEIGHTS = {"python": 0.7, "größe": 0.30000000000000004}
FULL: dict[str, Any] = {
    "sources": ["python", "größe"],
    "weights": WEIGHTS,
    "run": "quickstart-0123abcd",
    "targets": ["sklearn"],
    "unit": "document",
    "interval": {"python": (0.6, 0.9), "größe": (0.1, 0.4)},
    "over": "mean",
    "loss": {"mixmin": 2.5, "balanced": 2.75},
    "gain": {"balanced": {"estimate": 0.2, "optimism": 0.05, "interval": [0.1, 0.3], "more_documents": 0}},
    "target_loss": {"sklearn": 2.5},
    "target_weights": {"sklearn": 1.0},
    "gap": 3e-10,
    "rounds": 4,
    "solver": "newton",
    "solver_why": "2 sources, 9 rows: a curvature over all sources is cheap",
    "effective_sources": 1.8,
    "interchangeable": [{"sources": ["python", "größe"], "correlation": -0.9}],
    "worth": {"python": {"loss_rise": 0.1, "interval": [0.0, 0.2], "gap": 1e-9}, "größe": None},
    "prices": [{"sources": ["python"], "limit": "max", "at": 0.7, "nats_per_token_per_unit_share": 0.01}],
    "choice": {
        "rule": "nearest_to_prior",
        "within": "one_se",
        "allowed_rise": 0.02,
        "strength": 0.3,
        "loss": 2.51,
        "loss_rise": 0.01,
        "divergence": 0.1,
        "effective_sources": 1.9,
        "divergence_gap": 1e-7,
        "optimum": {"weights": {"python": 0.8, "größe": 0.2}, "loss": 2.5, "gap": 1e-9},
    },
    "realisable": {"least_share": 0.01, "dropped": ["größe"], "raised": [], "loss_rise": 1e-6},
    "path": [
        {
            "strength": None,
            "weights": {"python": 0.5, "größe": 0.5},
            "loss": 2.6,
            "loss_rise": 0.1,
            "divergence": 0.0,
            "effective_sources": 2.0,
        }
    ],
    "tolerance": 1e-8,
    "status": "converged",
    "epochs": {"python": 0.5, "größe": 2.0},
    "budget": 10_000,
    "sizes": {
        "python": {"documents": 7, "tokens": 14_000, "tail_tokens": 28},
        "größe": {"documents": 2, "tokens": 1500},
    },
    "rivals": {
        "regmix": {
            "weights": {"python": 1.0, "größe": 0.0},
            "expected": 5.5,
            "rank_correlation": None,
            "models": 12,
            "search_flops": 2e12,
        }
    },
    "forecast": {
        "balanced": {
            "reference": "mixmin",
            "measured": 0.05,
            "measured_interval": [0.01, 0.09],
            "documents": 9,
            "seeds": 2,
            "tokens": 500,
            "expected": 0.08,
            "interval": [-0.01, 0.2],
            "probability": 0.93,
        }
    },
    "retrain": {
        "balanced": {
            "nll": 2.5,
            "documents": 9,
            "difference": 0.1,
            "difference_low": 0.0,
            "difference_high": 0.2,
            "targets": {"sklearn": {"nll": 2.5}},
            "group_weights": {"python": 0.3},
            "model": "store/artifacts/model/1",
        },
        "mixmin": {"nll": 2.4, "tokens": 1000, "seconds": 3.5},
    },
    "compute": {"search_flops": 1e12, "retrain_flops": 1e15, "overhead": 1e-3},
    "warnings": [
        {"code": "flat", "message": "shares differ more than losses", "interval": [0.0, 0.1], "unit": "nats per token"}
    ],
}
FIELDS = [
    "schema", "run", "targets", "over", "unit", "share_of", "sources", "weights", "interval", "loss_unit", "loss",
    "gain",
    "target_loss", "target_weights", "gap", "rounds", "solver", "solver_why", "tolerance", "status", "epochs",
    "budget", "sizes", "effective_sources", "interchangeable", "worth", "prices", "choice", "realisable", "path",
    "rivals", "forecast", "retrain", "compute", "warnings",
]  # fmt: skip


def test_a_mixture_file_has_exactly_these_fields() -> None:
    content = json.loads(Mixture.model_validate(FULL).to_json())
    assert list(content) == FIELDS
    assert content["schema"] == "mixray.mixture/1"
    assert content["share_of"] == "training tokens"
    assert content["sources"] == ["python", "größe"]
    assert content["weights"] == WEIGHTS


def test_a_saved_mixture_is_loaded_to_the_last_bit(tmp_path: Path) -> None:
    mixture = Mixture.model_validate(FULL)
    path = tmp_path / "mixtures" / "sklearn.json"
    mixture.save(path)
    assert load_mixture(path) == mixture
    assert load_mixture(str(path)).weights["größe"].hex() == (0.30000000000000004).hex()
    assert [file.name for file in path.parent.iterdir()] == ["sklearn.json"]


@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=20))
def test_any_shares_survive_the_round_trip(raw: list[float]) -> None:
    mixture = Mixture.from_weights({f"s{i}": share / sum(raw) for i, share in enumerate(raw)})
    assert Mixture.from_json(mixture.to_json()) == mixture


def test_a_mixture_cannot_be_changed() -> None:
    mixture = Mixture.from_weights(WEIGHTS)
    with pytest.raises(ValidationError, match="frozen"):
        mixture.gap = 0.0  # type: ignore[misc]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sum": ({"weights": {"a": 0.5, "b": 0.4}}, r"weights: wanted shares that sum to 1 within 1e-12; they sum to 0.9"),
    "just off": ({"weights": {"a": 0.5, "b": 0.5 + 2e-12}}, "they sum to 1.000000000002"),
    "negative": ({"weights": {"a": 1.0, "b": -1e-13}}, r"weights.b: Input should be greater than or equal to 0"),
    "other sources": ({"sources": ["a", "c"]}, r"weights: wanted exactly the sources \['a', 'c'\]; got \['a', 'b'\]"),
    "no sources": ({"sources": [], "weights": {}}, "sources: wanted at least one"),
    "a source twice": ({"sources": ["a", "a", "b"]}, "each named once"),
    "interval": ({"interval": {"a": [0, 1]}}, "interval: wanted exactly the sources"),
    "epochs": ({"epochs": {"x": 1.0}}, "epochs: wanted exactly the sources"),
    "sizes": ({"sizes": {"a": {"documents": 1, "tokens": 9}}}, "sizes: wanted exactly the sources"),
    "no documents": ({"sizes": {"a": {"documents": 0, "tokens": 9}}}, "sizes.a.documents: Input should be greater"),
    "unit": ({"unit": "word"}, "unit.*: Input should be 'document', 'window' or 'token'"),
    "status": ({"status": "done"}, "status: Input should be 'converged'"),
    "gap": ({"gap": -1.0}, "gap: Input should be greater than or equal to 0"),
    "unknown field": ({"shares": {}}, "shares: Extra inputs are not permitted"),
    "section": ({"worth": {"a": {"rise": 1}}}, "worth.a.loss_rise: Field required"),
    "schema": ({"schema": "mixray.mixture/2"}, r"schema 'mixray.mixture/2'\n  wanted: schema 'mixray.mixture/1'"),
}
CONTENT = {"schema": "mixray.mixture/1", "sources": ["a", "b"], "weights": {"a": 0.5, "b": 0.5}}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_content_is_refused_with_the_files_name(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(CONTENT | changes))
    with pytest.raises(InputError, match=message) as caught:
        load_mixture(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the JSON is broken"),
        ('{"gap": NaN}', "NaN is not strict JSON"),
        ('{"gap": Infinity}', "Infinity is not strict JSON"),
        ("[1]", "schema None|list"),
        ("{}", "schema None"),
    ],
)
def test_other_texts_are_no_mixture_files(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixture.from_json(text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the mixture file cannot be read") as caught:
        load_mixture(tmp_path / "none.json")
    assert caught.value.where == str(tmp_path / "none.json")


def test_no_number_of_a_mixture_is_nan_or_infinite() -> None:
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite number"):
            Mixture.model_validate(FULL | {"loss": {"mixmin": number}})


def test_a_file_has_only_the_fields_that_a_section_was_given() -> None:
    content = json.loads(Mixture.model_validate(FULL).to_json())
    for section in ("interchangeable", "worth", "prices", "choice", "path", "retrain", "compute"):
        assert content[section] == json.loads(json.dumps(FULL[section])), section
    assert content["warnings"] == FULL["warnings"]


def test_an_absent_section_is_an_empty_object() -> None:
    bare = Mixture.from_weights(WEIGHTS)
    content = json.loads(bare.to_json())
    assert (content["choice"], content["compute"]) == ({}, {})
    assert Mixture.from_json(bare.to_json()) == bare


def test_shares_that_are_no_mixture_are_refused() -> None:
    with pytest.raises(InputError, match="this is not a valid mixture"):
        Mixture.from_weights({"a": 0.5, "b": 0.4})


def test_a_mixture_is_two_tables_in_a_notebook() -> None:
    content = CONTENT | {
        "weights": {"a": 0.25, "b": 0.75},
        "interval": {"a": [0.2, 0.3], "b": [0.7, 0.8]},
        "loss": {"mixmin": 2.0, "<mine>": 2.5},
        "retrain": {
            "mixmin": {"nll": 1.5},
            "<mine>": {"nll": 1.25, "difference": -0.25, "difference_low": -0.3, "difference_high": -0.2},
        },
    }
    html = Mixture.model_validate(content)._repr_html_()
    assert html.count("<table>") == 2
    assert html.index("70.0 to 80.0 %") < html.index("25.0 %"), "the largest share stands first"
    assert html.index("&lt;mine&gt;") < html.index("mixmin"), "the lowest held-out loss stands first"
    assert "-0.3000 to -0.2000" in html
    assert "<mine>" not in html
    assert Mixture.from_weights({"a": 0.5, "b": 0.5})._repr_html_().count("<table>") == 1
