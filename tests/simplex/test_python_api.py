"""``solve`` as Python users call it: data frames, tensors, the commonest slips, and what a solution prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import mixray
from mixray.errors import InputError
from mixray.simplex import solve

TABLE = np.array([[-1.0, -4.0, -4.0], [-4.0, -1.0, -4.0], [-1.0, -4.0, -4.0], [-4.0, -4.0, -1.5]])
NAMES = ["web", "code", "<books>"]


def polars_frame() -> Any:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.DataFrame(dict(zip(NAMES, TABLE.T, strict=True)))


def pandas_frame() -> Any:
    return pandas.DataFrame(TABLE, columns=NAMES)


@pytest.mark.parametrize("make", [pandas_frame, polars_frame])
def test_a_data_frame_keeps_the_names_of_its_columns(make: Any) -> None:
    solution = solve(make())
    assert solution.source_names == tuple(NAMES)
    np.testing.assert_array_equal(solution.weights, solve(TABLE).weights)


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two columns have the same name"):
        solve(pandas.DataFrame(TABLE, columns=["a", "a", "b"]))


def test_a_column_of_text_is_refused() -> None:
    with pytest.raises(InputError, match="a table of numbers is needed"):
        solve(pandas.DataFrame({"id": ["x", "y"], "web": [-1.0, -2.0]}))


def test_conflicting_limits_name_the_columns() -> None:
    with pytest.raises(InputError) as refused:
        solve(pandas_frame(), upper=[0.2, 0.2, 0.2])
    assert "web at most 0.2" in str(refused.value.got)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True], ids=["plain", "requires gradient"])
def test_a_tensor_is_solved_as_its_values(dtype: torch.dtype, requires_grad: bool) -> None:
    # All values of the table are exact in bfloat16.
    tensor = torch.tensor(TABLE).to(dtype).requires_grad_(requires_grad)
    weights = torch.ones(4, dtype=dtype, requires_grad=requires_grad)
    plain = solve(TABLE.astype(np.float32), row_weights=np.ones(4, np.float32))
    np.testing.assert_allclose(solve(tensor, row_weights=weights).weights, plain.weights, atol=1e-6)


@pytest.mark.parametrize(
    ("table", "slip", "remedy"),
    [
        (np.exp(TABLE), "look like probabilities", "np.log"),
        (-TABLE, "look like negated log-likelihoods", "-losses"),
        (np.array([[-1.0, 0.5], [-2.0, -1.0]]), "are above 0", "densities=True"),
        (np.full((2, 2), 1e-5), "look like probabilities", "np.log"),
    ],
)
def test_positive_values_are_refused_with_the_slip_that_they_look_like(table: Any, slip: str, remedy: str) -> None:
    with pytest.raises(InputError, match=slip) as refused:
        solve(table)
    assert remedy in str(refused.value.remedy)


def test_densities_may_be_positive() -> None:
    np.testing.assert_allclose(solve(TABLE + 10, densities=True).weights, solve(TABLE).weights, atol=1e-6)


@pytest.mark.parametrize(
    "table", [np.zeros((2, 2)), np.array([[-1.0, 1e-6], [-0.5, -1.0]])], ids=["certain", "rounded"]
)
def test_zeros_and_rounding_are_accepted(table: Any) -> None:
    assert solve(table).status == "converged"


def test_a_solution_prints_on_one_short_line() -> None:
    text = repr(solve(pandas_frame()))
    assert re.fullmatch(
        r"Solution\(web \d+\.\d %, code .*; loss .* nats per token, gap .*, converged after \d+ rounds?\)", text
    )
    assert len(repr(solve(np.tile(TABLE, 30)))) < 250
    assert "(90 sources)" in repr(solve(np.tile(TABLE, 30)))
    assert "source 0 100.0 %" in repr(solve(TABLE[:, :1]))


def test_a_solution_is_a_table_in_a_notebook() -> None:
    html = solve(pandas_frame())._repr_html_()
    assert html.count("<tr>") == 4
    assert "&lt;books&gt;" in html
    assert "converged" in html


def test_a_solution_becomes_a_mixture() -> None:
    solution = solve(pandas_frame())
    mixture = solution.to_mixture()
    assert mixture.sources == NAMES
    assert list(mixture.weights.values()) == solution.weights.tolist()
    assert (mixture.loss, mixture.gap, mixture.status) == ({"mixmin": solution.loss}, solution.gap, "converged")
    assert mixray.Mixture.from_json(mixture.to_json()) == mixture
    assert solve(TABLE).to_mixture(["x", "y", "z"]).sources == ["x", "y", "z"]


@pytest.mark.parametrize("names", [None, ["x"], ["x", "x", "y"]])
def test_a_mixture_needs_a_name_for_every_source(names: list[str] | None) -> None:
    with pytest.raises(InputError, match="every source needs a name of its own"):
        solve(TABLE).to_mixture(names)


def test_the_package_says_its_version_and_is_typed() -> None:
    assert re.match(r"\d+\.\d+", mixray.__version__)
    assert (Path(mixray.__file__).parent / "py.typed").is_file()
