"""The HTML report: what is in the file, and what a browser makes of it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mixray
from mixray.mixture import Mixture, PredictedGain
from mixray.report import ProblemToVary, report_page
from mixray.report.page import MOST_PREDICTIONS
from mixray.report.tables import ArmShares
from mixray.store import HeldOutCurve

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
Page = Callable[..., str]


@pytest.fixture
def problem(mixture: Mixture) -> ProblemToVary:
    log_probs = np.random.default_rng(0).normal(-9, 2, (60, len(mixture.sources)))
    return ProblemToVary(log_probs, np.full(60, 1 / 60), dict.fromkeys(mixture.sources, (0.0, 1.0)))


@pytest.fixture
def page(mixture: Mixture, arm_shares: ArmShares, problem: ProblemToVary) -> Page:
    curves = {
        arm: HeldOutCurve(16, 2048, [(200_000 * i, 3.0 + rank / 10 + 4 / i) for i in range(1, 11)])
        for rank, arm in enumerate(("mixmin", "balanced", "natural"))
    }

    def make(problem: ProblemToVary = problem, mixture: Mixture = mixture) -> str:
        problems, drawn = {"sklearn": problem}, {"sklearn": {"sklearn": curves}}
        return report_page("run-1", {"sklearn": mixture}, arm_shares, problems, "name: <run>", drawn).decode()

    return make


def in_browser(page: str, folder: Path, script: str = "") -> str:
    """Return the document as it is after the scripts of the page, and then this one, have run."""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr  # neither an error nor a refused request
    return done.stdout


def test_the_same_results_make_the_same_page(page: Page) -> None:
    assert page() == page()


def test_the_page_has_the_answer_and_every_number_of_the_terminal(page: Page) -> None:
    text = html.unescape(page())
    for part in (
        "mixmin has the lowest held-out loss, 3.0112 nats per token",
        "the fit part has only 12 documents",
        "<td>python</td><td>62.1 %</td>",
        "<td>+0.1391</td><td>+0.1200 to +0.1580</td>",
        "held-out: n = 213 documents",
    ):
        assert part in text


def test_names_are_text_and_not_markup(page: Page, mixture: Mixture) -> None:
    text = page(mixture=mixture.model_copy(update={"targets": ["<script>alert(1)</script>"]}))
    assert "<script>alert" not in text
    assert "name: &lt;run&gt;" in text


def test_the_page_may_load_nothing(page: Page) -> None:
    assert "default-src 'none'" in html.unescape(page())
    assert re.findall(r"<(?:script|img|link)[^>]*(?:src|href)", page()) == []


def test_a_problem_that_is_too_large_has_no_panel(page: Page, problem: ProblemToVary) -> None:
    rows = MOST_PREDICTIONS // problem.log_probs.shape[1] + 1
    large = replace(
        problem, log_probs=np.zeros((rows, problem.log_probs.shape[1])), row_weights=np.full(rows, 1 / rows)
    )
    assert 'class="what-if"' in page()
    assert 'class="what-if"' not in page(large)


@needs_a_browser
def test_a_browser_draws_the_charts_and_makes_no_complaint(page: Page, tmp_path: Path) -> None:
    document = in_browser(page(), tmp_path)
    assert document.count('class="main-svg"') >= document.count('class="chart')
    assert "Share of training tokens" in document


@needs_a_browser
@pytest.mark.parametrize("cap", [1.0, 0.1])
def test_the_panel_solves_the_problem_as_the_solver_does(
    page: Page, problem: ProblemToVary, tmp_path: Path, cap: float
) -> None:
    script = f"""
        const slider = document.querySelector(".what-if input");
        slider.value = {cap};
        slider.dispatchEvent(new Event("input", {{ bubbles: true }}));
    """
    document = in_browser(page(), tmp_path, script)
    upper = [cap, *[1.0] * (problem.log_probs.shape[1] - 1)]
    solution = mixray.solve(problem.log_probs, upper=upper)
    outcome = re.search(r"Predicted loss ([\d.]+) nats per token", document)
    assert outcome is not None
    assert float(outcome[1]) == pytest.approx(solution.loss, abs=2e-4)
    shares = [float(share) / 100 for share in re.findall(r"<output>([\d.]+) % \(", document)]
    assert shares == pytest.approx(solution.weights.tolist(), abs=5e-3)


@needs_a_browser
def test_a_source_without_a_share_does_not_scale_the_panels_rows(
    page: Page, problem: ProblemToVary, tmp_path: Path
) -> None:
    """The first source, which the limits exclude, is 400 nats above the others: beside it they are 0 in float32."""
    log_probs = problem.log_probs + np.eye(1, len(problem.limits))[0] * 400
    limits = {source: (0.0, float(place > 0)) for place, source in enumerate(problem.limits)}
    document = in_browser(page(replace(problem, log_probs=log_probs, limits=limits)), tmp_path)
    outcome = re.search(r"Predicted loss ([\d.]+) nats per token", document)
    assert outcome is not None
    assert float(outcome[1]) == pytest.approx(mixray.solve(problem.log_probs[:, 1:]).loss, abs=2e-4)


def test_the_chart_of_differences_names_what_its_intervals_cover_and_what_was_predicted(
    page: Page, mixture: Mixture
) -> None:
    assert "paired 95 % intervals over documents." in page()
    gain = PredictedGain(estimate=0.18, optimism=0.01, interval=None, more_documents=0)
    arms = {
        name: mixture.retrain[method].model_copy(update={"mixture": method, "nll_by_seed": [3.0, 3.1]})
        for name, method in {"dro": "mixmin", "even": "balanced"}.items()
    }
    text = html.unescape(page(mixture=mixture.model_copy(update={"gain": {"balanced": gain}, "retrain": arms})))
    assert "paired 95 % intervals over documents and seeds." in text
    assert '"name": "predicted"' in text
