from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from mixray.mixture import ArmResult, Mixture, MixtureWarning, PredictedGain, RealisableShares
from mixray.report.sweeps import sweep_tables
from mixray.report.tables import (
    ArmShares,
    arms_table,
    closing_report,
    gain_table,
    mixture_tables,
    sources_table,
    summary_lines,
    warning_lines,
    weights_table,
)


def printed(part: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(part)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line.rstrip() for line in lines if line.strip(" ─")]  # without empty lines and rules


def test_the_weights_table(mixture: Mixture, arm_shares: ArmShares) -> None:
    assert printed(weights_table(mixture, arm_shares)) == [
        "Mixture for sklearn: shares of training tokens",
        " source             share    95 % interval   epochs   balanced   natural",
        " python            62.1 %   57.1 to 69.1 %     1.86     16.7 %    10.0 %",
        " cpp               25.0 %   20.0 to 32.0 %     0.75     16.7 %    10.0 %",
        " wiki              10.0 %    5.0 to 17.0 %     0.30     16.7 %    50.0 %",
        " logs               2.8 %       0 to 9.8 %     0.08     16.7 %    10.0 %",
        " books-and-more   < 0.1 %       0 to 7.0 %     0.00     16.7 %    15.0 %",
        " stackexchange        0 %       0 to 7.0 %        0     16.7 %     5.0 %",
    ]


def test_many_mixtures_have_a_row_each() -> None:
    sources = ["one", "two", "three", "four"]
    weights = dict(zip(sources, (0.4, 0.3, 0.2, 0.1), strict=True))
    mixtures = {
        f"t{number}": Mixture(targets=[f"t{number}"], sources=sources, weights=weights, loss={"mixmin": 0.25})
        for number in range(25)
    }
    (table,) = mixture_tables(mixtures, {})
    lines = printed(table)
    assert lines[0] == "25 mixtures: loss in nats per token"
    assert lines[2].split() == ["t0", "0.2500", "one", "40.0", "%,", "two", "30.0", "%,", "three", "20.0", "%"]
    assert len(lines) == 2 + 25 + 1
    few = dict(list(mixtures.items())[:24])
    assert len(mixture_tables(few, {name: {} for name in few})) == 24


def test_the_arms_table(mixture: Mixture) -> None:
    assert printed(arms_table(mixture)) == [
        "Arms on sklearn: loss in nats per token",
        " arm        predicted   held-out   vs mixmin        95 % interval      in %",
        " mixmin *      3.2112     3.0112",
        " balanced      3.4021     3.1503     +0.1391   +0.1200 to +0.1580   +4.62 %",
        " natural       3.6100     3.2901     +0.2789   +0.2200 to +0.3380   +9.26 %",
        "held-out: n = 213 documents; 2.00 M training tokens each; * lowest held-out loss",
    ]


def test_the_arms_before_retraining_have_predictions_only(mixture: Mixture) -> None:
    lines = printed(arms_table(mixture.model_copy(update={"retrain": {}})))
    assert [line.split() for line in lines][1:] == [
        ["arm", "predicted"],
        ["mixmin", "3.2112"],
        ["balanced", "3.4021"],
        ["natural", "3.6100"],
    ]


def test_the_summary_says_who_won_by_how_much_and_at_what_cost(mixture: Mixture) -> None:
    assert summary_lines(mixture) == [
        "sklearn: mixmin has the lowest held-out loss, 3.0112 nats per token, 0.1391 (4.42 %) below balanced "
        "(95 % interval 0.1200 to 0.1580)",
        "solver: converged after 9 rounds, at most 3.2e-10 nats per token above the optimum",
        "search: 0.0356 % of the FLOPs of one retraining",
    ]


def test_a_win_within_the_interval_is_called_none(mixture: Mixture) -> None:
    balanced = mixture.retrain["balanced"].model_copy(update={"difference_low": -0.02})
    retrain = {**mixture.retrain, "balanced": balanced}
    line = summary_lines(mixture.model_copy(update={"retrain": retrain}))[0]
    assert line.endswith("(95 % interval -0.0200 to 0.1580): not separated from zero")


def test_a_loss_to_the_balanced_arm_is_said_plainly(mixture: Mixture) -> None:
    balanced = ArmResult(nll=2.9112, difference=-0.1, difference_low=-0.12, difference_high=-0.08)
    line = summary_lines(mixture.model_copy(update={"retrain": {**mixture.retrain, "balanced": balanced}}))[0]
    assert line == (
        "sklearn: balanced has the lowest held-out loss, 2.9112 nats per token, 0.1000 (3.32 %) below mixmin "
        "(95 % interval 0.0800 to 0.1200)"
    )


def test_without_retraining_the_summary_is_a_prediction(mixture: Mixture) -> None:
    line = summary_lines(mixture.model_copy(update={"retrain": {}}))[0]
    assert line == "sklearn: predicted loss 3.2112 nats per token, 0.1909 below balanced"


def test_the_gain_table_says_what_is_left_on_fresh_documents(mixture: Mixture) -> None:
    gains = {
        "balanced": PredictedGain(estimate=0.1809, optimism=0.01, interval=(0.15, 0.2118), more_documents=0),
        "natural": PredictedGain(estimate=0.01, optimism=0.01, interval=(-0.02, 0.04), more_documents=4321),
        "unimax": PredictedGain(estimate=-0.01, optimism=0.01, interval=None, more_documents=None),
    }
    lines = printed(gain_table(mixture.model_copy(update={"gain": gains, "retrain": {}})))
    assert lines[:5] == [
        "Predicted gain on sklearn: nats per token",
        " over          gain        95 % interval   of the fit   more documents",
        " balanced   +0.1809   +0.1500 to +0.2118      -0.0100                0",
        " natural    +0.0100   -0.0200 to +0.0400      -0.0100            4,321",
        " unimax     -0.0100                           -0.0100        no number",
    ]


def test_after_the_retraining_a_predicted_gain_stands_beside_what_came_out(mixture: Mixture) -> None:
    gain = PredictedGain(estimate=0.1809, optimism=0.01, interval=(0.15, 0.2118), more_documents=0)
    gains = {"natural": gain, "balanced": gain, "unimax": gain.model_copy(update={"interval": None})}
    assert printed(gain_table(mixture.model_copy(update={"gain": gains}))) == [
        "Gain on sklearn: nats per token, as predicted and as it came out",
        " over       predicted        95 % interval   came out        95 % interval",
        " natural      +0.1809   +0.1500 to +0.2118    +0.2789   +0.2200 to +0.3380",
        " balanced     +0.1809   +0.1500 to +0.2118    +0.1391   +0.1200 to +0.1580",
        " unimax       +0.1809",
        "predicted: at the size of the proxies, on documents that did not choose the",
        "mixture; came out: of the retrained models, on the held-out documents",
    ]


def test_arms_of_other_names_on_the_same_mixtures_say_what_came_out(mixture: Mixture) -> None:
    gain = PredictedGain(estimate=0.1809, optimism=0.01, interval=(0.15, 0.2118), more_documents=0)
    plain, robust = mixture.retrain["balanced"], mixture.retrain["mixmin"]
    arms = {"dro": robust.model_copy(update={"mixture": "mixmin", "objective": "group_dro"})}
    arms["even"] = plain.model_copy(update={"mixture": "balanced", "objective": "group_dro"})
    lines = printed(gain_table(mixture.model_copy(update={"gain": {"balanced": gain}, "retrain": arms})))
    assert lines[2] == " balanced     +0.1809   +0.1500 to +0.2118    +0.1391   +0.1200 to +0.1580"


def test_tables_of_a_regression_are_in_its_unit(mixture: Mixture) -> None:
    gain = {"balanced": PredictedGain(estimate=0.18, optimism=0.01, interval=None, more_documents=0)}
    of = mixture.model_copy(update={"loss_unit": "squared error", "gain": gain})
    for table in (gain_table(of), sources_table(of), *sweep_tables("mixture.tau", [1], [{"sklearn": of}])):
        assert "squared error" in printed(table, width=120)[0]


def test_a_prediction_is_that_of_fresh_documents_where_there_is_one(mixture: Mixture) -> None:
    gain = {"balanced": PredictedGain(estimate=0.1809, optimism=0.01, interval=(0.15, 0.2118), more_documents=0)}
    line = summary_lines(mixture.model_copy(update={"retrain": {}, "gain": gain}))[0]
    assert line == "sklearn: predicted loss 3.2112 nats per token, 0.1809 below balanced on fresh documents"


def test_shares_that_were_put_at_a_window_are_named_with_their_price(mixture: Mixture) -> None:
    settled = RealisableShares(least_share=0.0005, dropped=["logs", "wiki"], raised=["cpp"], loss_rise=0.0012)
    assert summary_lines(mixture.model_copy(update={"realisable": settled}))[2] == (
        "best shares below one training window of the budget, 0.05 %, were put logs, wiki to no share and "
        "cpp to at least that share: 1.2e-03 nats per token"
    )


def test_a_bare_mixture_has_a_report_too() -> None:
    bare = Mixture.from_weights({"python": 0.5, "cpp": 0.5})
    lines = printed(closing_report(bare, {}))
    assert [line.split() for line in lines][1:] == [
        ["source", "share"],
        ["python", "50.0", "%"],
        ["cpp", "50.0", "%"],
    ]
    assert "Arms" not in "".join(lines)


def test_warnings_are_printed_with_their_code(mixture: Mixture) -> None:
    assert warning_lines(mixture) == ["warning (few_documents): the fit part has only 12 documents"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_whole_report_fits_the_terminal(mixture: Mixture, arm_shares: ArmShares, width: int) -> None:
    lines = printed(closing_report(mixture, arm_shares), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for needed in (
        "Mixture for sklearn",
        "mixmin *",
        "nats per token",
        "n = 213",
        "solver: converged",
        "few_documents",
    ):
        assert needed in text


def test_markup_in_a_message_is_printed_as_it_is(mixture: Mixture) -> None:
    warned = mixture.model_copy(update={"warnings": [MixtureWarning(code="x", message="a [bold]b[/bold]")]})
    assert "warning (x): a [bold]b[/bold]" in printed(closing_report(warned, {}))


def test_arms_that_differ_in_their_objective_have_it_beside_their_mixture(mixture: Mixture) -> None:
    facts = {
        "mixmin": ("mixmin", "erm", []),
        "dro": ("mixmin", "group_dro", []),
        "current": ("shares", "erm", ["python at most 0.3 (has 0.6)"]),
    }
    base = mixture.retrain["mixmin"].model_dump()
    results = {
        arm: ArmResult.model_validate(base | {"mixture": name, "objective": kind, "outside": outside})
        for arm, (name, kind, outside) in facts.items()
    }
    loss = {"mixmin": 3.2112, "current": 3.5}
    lines = printed(arms_table(mixture.model_copy(update={"retrain": results, "loss": loss})), width=120)
    assert lines[1].split()[:4] == ["arm", "mixture", "objective", "predicted"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:5]}
    assert rows["mixmin"][:4] == ["*", "mixmin", "erm", "3.2112"]
    assert rows["dro"][:3] == ["mixmin", "group_dro", "3.2112"]  # the prediction is that of its mixture
    assert rows["current"][:4] == ["†", "shares", "erm", "3.5000"]
    assert " ".join(lines[5:]).endswith("† outside the limits (current: python at most 0.3 (has 0.6))")


def test_the_number_of_seeds_stands_beside_that_of_documents(mixture: Mixture) -> None:
    results = {
        arm: ArmResult.model_validate(result.model_dump() | {"nll_by_seed": [3.0, 3.1, 3.2]})
        for arm, result in mixture.retrain.items()
    }
    lines = printed(arms_table(mixture.model_copy(update={"retrain": results})), width=120)
    assert lines[-1].startswith("held-out: n = 213 documents, 3 seeds; 2.00 M training tokens each")


def test_the_sources_table_has_every_arms_loss_beside_its_realised_share(mixture: Mixture) -> None:
    def measured(share: float, nll: float | None) -> dict[str, Any]:
        interval = {} if nll is None else {"nll": nll, "nll_low": nll - 0.1, "nll_high": nll + 0.1}
        return {"share": share, "rows": 64 if nll else 0, **interval}

    results = {}
    for arm, step in (("mixmin", 0.0), ("balanced", 1.0)):
        sources = {name: measured(0.25, None if name == "logs" else 2 + step) for name in mixture.sources}
        results[arm] = ArmResult.model_validate(mixture.retrain[arm].model_dump() | {"sources": sources})
    lines = printed(sources_table(mixture.model_copy(update={"retrain": results})), width=120)
    assert lines[0] == "Sources: realised share, and loss in nats per token"
    assert lines[1].split() == ["source", "share", "mixmin", "share", "balanced"]
    assert lines[2].split() == ["python", "25.0", "%", "2.000", "±", "0.100", "25.0", "%", "3.000", "±", "0.100"]
    assert ["logs", "25.0", "%", "25.0", "%"] in [line.split() for line in lines]
    assert lines[-1].startswith("n = 64 windows that the arm's training did not read")
