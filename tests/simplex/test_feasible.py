"""The feasible set: the box by its extreme points, groups by linear programs, conflicts by brute force."""

from __future__ import annotations

import re
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.optimize import linprog

from mixray.errors import InputError
from mixray.simplex import FeasibleSet, Group, mixture_loss, solve

Array = NDArray[np.float64]


@st.composite
def boxes(draw: st.DrawFn) -> FeasibleSet:
    sources = draw(st.integers(1, 6))
    raw = draw(arrays(np.float64, (3, sources), elements=st.sampled_from([0.0, 1e-9, 0.1, 0.3, 0.5, 1.0])))
    inside = (raw[0] + 1e-3) / (raw[0] + 1e-3).sum()
    return FeasibleSet.of(sources, inside * raw[1], inside + (1 - inside) * raw[2])


@st.composite
def sets_with_groups(draw: st.DrawFn) -> FeasibleSet:
    """Bounds and one to three groups, which may overlap, hold all sources or be held at one number."""
    sources = draw(st.integers(1, 5))
    raw = draw(arrays(np.float64, (3, sources), elements=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])))
    inside = (raw[0] + 1e-2) / (raw[0] + 1e-2).sum()
    lower, upper = inside * raw[1], inside + (1 - inside) * raw[2]
    groups = []
    for _ in range(draw(st.integers(1, 3))):
        members = draw(st.lists(st.integers(0, sources - 1), min_size=1, unique=True))
        total = min(1.0, float(inside[members].sum()))
        below, above = draw(st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 1.0])] * 2))
        groups.append(Group(members, total * (1 - below), total + (1 - total) * above))
    return FeasibleSet.of(sources, lower, upper, groups)


def extreme_points(feasible: FeasibleSet) -> Array:
    """All but one coordinate at a bound, the last one what is left."""
    found = []
    for last, sides in product(range(feasible.lower.size), product([0, 1], repeat=feasible.lower.size)):
        point = np.where(sides, feasible.upper, feasible.lower)
        point[last] = 1 - np.delete(point, last).sum()
        if feasible.lower[last] - 1e-12 <= point[last] <= feasible.upper[last] + 1e-12:
            found.append(point)
    return np.array(found)


def is_feasible(shares: Array, feasible: FeasibleSet) -> bool:
    within = (feasible.lower <= shares).all() and (shares <= feasible.upper).all()
    sums = feasible.member @ shares
    groups = (sums >= feasible.group_lower - 1e-11).all() and (sums <= feasible.group_upper + 1e-11).all()
    return bool(within and groups and abs(shares.sum() - 1) <= 1e-12)


def gradients(sources: int) -> st.SearchStrategy[Array]:
    return arrays(np.float64, sources, elements=st.floats(-1e3, 1e3))


def by_linear_program(gradient: Array, feasible: FeasibleSet) -> float:
    member = feasible.member
    found = linprog(
        gradient,
        A_ub=np.vstack([member, -member]),
        b_ub=np.concatenate([feasible.group_upper, -feasible.group_lower]),
        A_eq=np.ones((1, gradient.size)),
        b_eq=[1.0],
        bounds=np.column_stack([feasible.lower, feasible.upper]),
    )
    assert found.status == 0
    return float(found.fun)


@given(boxes(), st.data())
def test_the_linear_minimum_of_a_box_is_the_best_extreme_point(feasible: FeasibleSet, data: st.DataObject) -> None:
    gradient = data.draw(gradients(feasible.lower.size))
    best = feasible.box.linear_minimum(gradient)
    assert is_feasible(best, feasible)
    assert gradient @ best == pytest.approx((extreme_points(feasible) @ gradient).min(), abs=1e-8)
    assert feasible.linear_bound(gradient) == gradient @ best


@given(sets_with_groups(), st.data(), st.integers(0, 2**32 - 1))
def test_the_linear_bound_with_groups_is_tight_whatever_prices_are_suggested(
    feasible: FeasibleSet, data: st.DataObject, seed: int
) -> None:
    gradient = data.draw(gradients(feasible.lower.size))
    prices = np.random.default_rng(seed).normal(0, 10.0, feasible.groups)
    best, slack = by_linear_program(gradient, feasible), 1e-6 * (1 + np.abs(gradient).max())
    for suggested in (None, prices):
        bound = feasible.linear_bound(gradient, suggested)
        assert best - slack <= bound <= best + slack
    # Bad prices alone prove little, and nothing false.
    assert feasible._priced_bound(gradient, prices) <= best + slack


@given(boxes(), st.data())
def test_the_nearest_shares_are_scaled_and_clipped(feasible: FeasibleSet, data: st.DataObject) -> None:
    logs = data.draw(gradients(feasible.lower.size))
    shares = feasible.nearest(logs)
    assert is_feasible(shares, feasible)
    # Optimality: log(share) - logs is one number for the unclipped, no less at lower bounds, no more at upper ones.
    shift = np.log(np.maximum(shares, 1e-300)) - logs
    at_lower, at_upper = shares <= feasible.lower + 1e-12, shares >= feasible.upper - 1e-12
    may_shrink, may_grow = ~at_lower & (shares > 1e-250), ~at_upper
    if may_shrink.any() and may_grow.any():
        assert shift[may_shrink].max() <= shift[may_grow].min() + 1e-6 * (1 + np.abs(logs).max())


@given(sets_with_groups(), st.integers(0, 2**32 - 1))
def test_the_nearest_shares_with_groups_are_those_of_the_least_divergence(feasible: FeasibleSet, seed: int) -> None:
    draw = np.random.default_rng(seed)
    logs = draw.normal(0, 2, feasible.lower.size)
    shares = feasible.nearest(logs)
    assert is_feasible(shares, feasible)
    # Optimality: the divergence's gradient at its minimum is least there (over shares that are not 0 it is finite).
    gradient = np.log(np.maximum(shares, 1e-12)) - logs
    assert gradient @ shares <= by_linear_program(gradient, feasible) + 1e-4


@given(boxes())
def test_the_centre_is_the_euclidean_projection_of_balanced_too(feasible: FeasibleSet) -> None:
    centre, balanced = feasible.centre, 1 / feasible.lower.size
    for point in extreme_points(feasible):
        assert (centre - balanced) @ (point - centre) >= -1e-9


@given(st.one_of(boxes(), sets_with_groups()), st.integers(0, 2**32 - 1))
def test_repair_moves_rounding_errors_only(feasible: FeasibleSet, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shares = feasible.nearest(draw.normal(size=feasible.lower.size))
    repaired = feasible.repair(shares + draw.uniform(-1e-15, 1e-15, shares.size))
    assert is_feasible(repaired, feasible)
    np.testing.assert_allclose(repaired, shares, atol=1e-11)


def test_repair_gives_no_share_to_a_source_that_has_none() -> None:
    shares = np.array([0.7, 0.3 - 2**-53, 0.0])
    repaired = FeasibleSet.of(3).box.repair(shares)
    assert repaired.sum() == 1
    assert repaired[2] == 0


def test_repair_raises_a_source_above_its_lower_bound_where_no_other_has_room() -> None:
    repaired = FeasibleSet.of(2, upper=[0.4, 1.0]).box.repair(np.array([0.4, 0.0]))
    np.testing.assert_array_equal(repaired, [0.4, 0.6])


@given(st.one_of(boxes(), sets_with_groups()), st.integers(0, 2**32 - 1))
def test_repair_brings_any_shares_into_the_set(feasible: FeasibleSet, seed: int) -> None:
    draw = np.random.default_rng(seed)
    given_shares = draw.dirichlet(np.ones(feasible.lower.size))
    repaired = feasible.repair(given_shares)
    assert is_feasible(repaired, feasible)


@pytest.mark.parametrize("seed", range(12))
def test_many_sources_at_their_limits_are_repaired(seed: int) -> None:
    """Groups that leave hardly any room, caps of 1e-11 among them, and errors of 1e-15 to 1e-5."""
    draw = np.random.default_rng(seed)
    sources = int(draw.choice([20, 60, 128]))
    inside = draw.dirichlet(np.full(sources, draw.choice([0.1, 1, 5])))
    upper = np.minimum(1, inside * draw.choice([1.0, 1.5, 4.0]) + 1e-15)
    groups = []
    for _ in range(2):
        members = np.flatnonzero(draw.random(sources) < 0.5)
        total = inside[members].sum()
        above = draw.choice([0, 0.1, 1])
        groups.append(Group(members.tolist(), total * draw.choice([0, 0.9, 1]), min(1, total + (1 - total) * above)))
    feasible = FeasibleSet.of(sources, inside * draw.choice([0, 0.5, 0.9]), upper, groups)
    for spread in (0.1, 1, 30):
        shares = feasible.nearest(spread * draw.normal(size=sources))
        for rounding in (1e-15, 1e-11, 1e-9, 1e-5):
            repaired = feasible.repair(shares + rounding * draw.normal(size=sources))
            assert is_feasible(repaired, feasible)


def test_one_number_bounds_every_source() -> None:
    feasible = FeasibleSet.of(4, 0.1, 0.4)
    assert feasible.lower.tolist() == [0.1] * 4
    assert feasible.upper.tolist() == [0.4] * 4
    assert feasible.centre.tolist() == [0.25] * 4


def test_shares_of_0_are_filled_when_the_bounds_demand_it() -> None:
    shares = FeasibleSet.of(3, None, 0.4).nearest(np.array([0.0, -600.0, -690.0]))
    np.testing.assert_allclose(shares, [0.4, 0.4, 0.2], atol=1e-12)


def test_without_a_source_the_rest_of_the_limits_stand() -> None:
    feasible = FeasibleSet.of(3, [0, 0, 0.1], 0.6, [Group([0, 1], upper=0.5)])
    rest = feasible.without(0)
    assert rest.upper.tolist() == [0.0, 0.6, 0.6]
    assert (rest.lower.tolist(), rest.group_upper.tolist()) == ([0, 0, 0.1], [0.5])
    with pytest.raises(
        InputError, match=r"no mixture satisfies.*\n  got: source 2 at least 0.1; source 2 at most 0; shares sum to 1\n"
    ):
        feasible.without(2)


@pytest.mark.parametrize("group", [Group([0], upper=0.0), Group([1, 2], lower=1.0)], ids=["at 0", "the rest at 1"])
def test_a_group_that_rules_a_source_out_does_so_exactly(group: Group) -> None:
    # A share of 1e-13, which a sum would forgive, explains the first row 665 nats better than the other sources do.
    log_probs = np.array([[0.0, -1000.0, -1500.0], [-900.0, -1.0, -2.0], [0.0, -1100.0, -1050.0]])
    limited, forbidden = solve(log_probs, groups=[group]), solve(log_probs, upper=[0, 1, 1])
    assert limited.weights[0] == 0
    assert limited.loss == pytest.approx(forbidden.loss, abs=1e-8)


# ----------------------------------------------------------------------------------------------------------- conflicts

STATED = re.compile(r"(.+) at (least|most) ([\d.e-]+)")


def named_in(error: InputError) -> list[tuple[Array, str, float]]:
    """The constraints of a message: which sources, which side, which limit."""
    *stated, last = str(error.got).split("; ")
    assert last == "shares sum to 1"
    return stated_in(stated)


def stated_in(stated: list[str]) -> list[tuple[Array, str, float]]:
    found = []
    for text in stated:
        match = STATED.fullmatch(text)
        assert match, text
        members = np.zeros(SOURCES)
        members[[int(name.removeprefix("source ")) for name in match[1].split(" + ")]] = 1.0
        found.append((members, match[2], float(match[3])))
    return found


def mended(constraints: list[tuple[Array, str, float]], error: InputError) -> list[tuple[Array, str, float]]:
    """The constraints with the values that the message's remedy names in place of theirs."""
    _, _, changes = str(error.remedy).partition("loosen limits, for example to: ")
    new = {(tuple(members), side): at for members, side, at in stated_in(changes.split("; "))}
    changed = [(members, side, new.get((tuple(members), side), at)) for members, side, at in constraints]
    assert changes
    return changed


def possible(constraints: list[tuple[Array, str, float]]) -> bool:
    """By a linear program of the test's own: the constraints as rows, shares >= 0, sum 1."""
    rows = [members if side == "most" else -members for members, side, _ in constraints]
    sides = [limit if side == "most" else -limit for _, side, limit in constraints]
    found = linprog(
        np.zeros(SOURCES),
        A_ub=np.array(rows) if rows else None,
        b_ub=sides or None,
        A_eq=np.ones((1, SOURCES)),
        b_eq=[1.0],
    )
    return bool(found.status == 0)


SOURCES = 4
limit = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0])
groups = st.builds(
    Group,
    st.lists(st.integers(0, SOURCES - 1), min_size=1, unique=True),
    limit,
    limit,
)


@given(
    arrays(np.float64, SOURCES, elements=st.sampled_from([0.0, 0.0, 0.1, 0.3])),
    arrays(np.float64, SOURCES, elements=st.sampled_from([0.05, 0.3, 0.7, 1.0, 1.0])),
    st.lists(groups, max_size=3),
)
def test_a_conflict_is_named_by_constraints_that_are_all_needed(
    lower: Array, upper: Array, given_: list[Group]
) -> None:
    every = [(np.eye(SOURCES)[k], "least", lower[k]) for k in range(SOURCES)]
    every += [(np.eye(SOURCES)[k], "most", upper[k]) for k in range(SOURCES)]
    for group in given_:
        members = np.isin(np.arange(SOURCES), group.members).astype(float)
        every += [(members, "least", group.lower), (members, "most", group.upper)]
    if possible(every):
        feasible = FeasibleSet.of(SOURCES, lower, upper, given_)
        assert is_feasible(feasible.centre, feasible)
        return
    with pytest.raises(InputError, match="no mixture satisfies these constraints together") as refused:
        FeasibleSet.of(SOURCES, lower, upper, given_)
    named = named_in(refused.value)
    assert not possible(named)
    for left_out in range(len(named)):
        assert possible(named[:left_out] + named[left_out + 1 :])
    assert all(possible(list(fewer)) for size in range(1, len(named)) for fewer in combinations(every, size))
    assert possible(mended(every, refused.value))
    stated = {(tuple(members), side, float(f"{at:g}")) for members, side, at in every}
    assert {(tuple(members), side, at) for members, side, at in named} <= stated


def test_conflicts_are_as_frequent_as_peace_in_the_property_above() -> None:
    """Or it would say little: here both kinds occur in a fixed sample of the same tables."""
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        group = Group([0, 1], *draw.choice([0.0, 0.1, 0.5, 0.9], 2))
        try:
            FeasibleSet.of(
                SOURCES, draw.choice([0.0, 0.1, 0.3], SOURCES), draw.choice([0.3, 0.7, 1.0], SOURCES), [group]
            )
        except InputError:
            refused += 1
    assert 20 < refused < 80


CONFLICTS: dict[str, tuple[dict[str, Any], str]] = {
    "lower above upper": (
        {"lower": [0, 0.6, 0], "upper": [1, 0.5, 1]},
        "source 1 at least 0.6; source 1 at most 0.5; shares sum to 1",
    ),
    "lower bounds above 1": (
        {"lower": [0.6, 0.6, 0]},
        "source 0 at least 0.6; source 1 at least 0.6; shares sum to 1",
    ),
    "upper bounds below 1": (
        {"upper": [0.3, 0.3, 0.3]},
        "source 0 at most 0.3; source 1 at most 0.3; source 2 at most 0.3; shares sum to 1",
    ),
    "a group and its member": (
        {"lower": [0.4, 0, 0], "groups": [Group([0, 1], upper=0.3)]},
        "source 0 at least 0.4; source 0 + source 1 at most 0.3; shares sum to 1",
    ),
    "two groups that overlap": (
        {"groups": [Group([0, 1], lower=0.7), Group([0, 2], lower=0.7), Group([0], upper=0.2)]},
        "source 0 + source 1 at least 0.7; source 0 + source 2 at least 0.7; source 0 at most 0.2; shares sum to 1",
    ),
    "what is not part of it is not named": (
        {"lower": [0.1, 0.1, 0.1], "upper": [0.9, 0.2, 0.9], "groups": [Group([1], lower=0.5)]},
        "source 1 at least 0.5; source 1 at most 0.2; shares sum to 1",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts_read_so(name: str) -> None:
    arguments, wanted = CONFLICTS[name]
    with pytest.raises(InputError, match="no mixture satisfies these constraints together") as refused:
        FeasibleSet.of(3, **arguments)
    assert sorted(str(refused.value.got).split("; ")) == sorted(wanted.split("; "))


def test_conflicts_name_the_sources_where_names_are_given() -> None:
    with pytest.raises(InputError, match=r"got: code \+ web at most 0.5; code at least 0.6; shares sum to 1"):
        FeasibleSet.of(3, [0, 0.6, 0], None, [Group([1, 2], upper=0.5)], ["books", "code", "web"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": [Group([])]}, r"a group needs valid members\n  got: \[\]\n  wanted: sources 0 to 2"),
        ({"groups": [Group([0, 3])]}, r"a group needs valid members\n  got: \[0, 3\]"),
        ({"groups": [Group([-1])]}, r"a group needs valid members\n  got: \[-1\]"),
        ({"groups": [Group([0], upper=1.2)]}, r"a group's limits are not valid shares\n  got: \[\[0.0, 1.2\]\]"),
        ({"groups": [Group([0], lower=-0.1)]}, "a group's limits are not valid shares"),
        ({"groups": [Group([0], lower=np.nan)]}, "a group's limits are not valid shares"),
        (
            {"groups": [Group([0, 1], 0.5, 0.4)]},
            "got: source 0 . source 1 at least 0.5; source 0 . source 1 at most 0.4",
        ),
        ({"lower": [0, np.inf, 0]}, "lower: the bound of source 1 is not a valid share\n  got: inf"),
        ({"upper": -0.1}, "upper: the bound of sources 0, 1, 2 is not a valid share\n  got: -0.1"),
        ({"upper": [0.5, 0.5]}, r"upper: one bound per source is needed\n  got: shape \(2,\)\n  wanted: \(3,\)"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeasibleSet.of(3, **arguments)


@pytest.mark.parametrize(
    ("limits", "forced"),
    [
        ({"lower": [0.5, 0.5, 0]}, [2]),
        ({"lower": [0.1, 0.2, 0.7, 0]}, [3]),  # 0.1 + 0.2 + 0.7 is not 1 in binary
        ({"lower": [0, 0, 0.3], "groups": [Group([1, 2], upper=0.3)]}, [1]),
        ({"lower": [0.4, 0, 0], "groups": [Group([1], lower=0.6)]}, [2]),
        ({"sources": 4, "groups": [Group([0, 1], lower=0.5), Group([2], lower=0.5)]}, [3]),
        (
            {"sources": 5, "groups": [Group([0, 1], upper=0.4), Group([2, 3], upper=0.6), Group([0, 4], upper=0.0)]},
            [0, 4],
        ),
        (
            {"sources": 4, "groups": [Group([0, 1], 0.6), Group([1, 2], 0.4), Group([0, 2], 0, 1), Group([1], 0, 0)]},
            [1, 3],
        ),
        ({"lower": [0.5, 0.4, 0]}, []),
        ({"sources": 3, "groups": [Group([0, 1], upper=0.5), Group([1, 2], upper=0.9)]}, []),
    ],
)
def test_a_source_that_the_others_limits_leave_no_room_may_have_no_share(
    limits: dict[str, Any], forced: list[int]
) -> None:
    limits = {"sources": len(limits.get("lower", [])), **limits}
    feasible = FeasibleSet.of(**limits)
    assert np.flatnonzero(feasible.upper == 0).tolist() == forced


def test_a_source_without_room_does_not_scale_the_rows() -> None:
    """The documents are 500 nats likelier under source 2, which may have no share."""
    table = np.array([[-500.0, -501.0, -1.0], [-501.0, -500.0, -2.0]])
    solution = solve(table, lower=[0.5, 0.5, 0])
    assert solution.loss == pytest.approx(mixture_loss(table, [0.5, 0.5, 0]), rel=1e-12)
    assert solution.loss > 500


@pytest.mark.parametrize("member", [0.5, 1.0, True, "0"])
def test_members_that_are_not_whole_numbers_are_refused(member: Any) -> None:
    with pytest.raises(InputError, match="a group needs valid members"):
        FeasibleSet.of(3, groups=[Group([0, member], upper=0.5)])


@pytest.mark.parametrize("short", [1e-11, 1e-10, 1e-9])
def test_groups_that_miss_each_other_by_a_hair_are_a_conflict(short: float) -> None:
    groups = [Group([0, 1], upper=0.5 - short), Group([2, 3], upper=0.5 - short), Group([1, 2], upper=0.9)]
    with pytest.raises(InputError, match="no mixture satisfies these constraints together") as refused:
        FeasibleSet.of(4, groups=groups)
    assert len(named_in(refused.value)) == 2
    every = [(np.isin(range(4), group.members).astype(float), "most", group.upper) for group in groups]
    loosened = [Group(np.flatnonzero(members).tolist(), upper=at) for members, _, at in mended(every, refused.value)]
    FeasibleSet.of(4, groups=loosened)
