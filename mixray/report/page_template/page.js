"use strict";

// ---------------------------------------------------------------------------------------------------------- charts

const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C8C8C"]; // Okabe and Ito's
const isDark = matchMedia("(prefers-color-scheme: dark)");

function layoutOf(chart) {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text"), line = style.getPropertyValue("--line");
  const layout = {
    colorway: COLOURS, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, family: "system-ui, sans-serif", size: 13 },
    margin: { l: 8, r: 12, t: 8, b: 8 }, legend: { orientation: "h", y: -0.14, yanchor: "top" },
    ...chart.layout,
  };
  for (const name of ["xaxis", "yaxis", "yaxis2"]) {
    layout[name] = { gridcolor: line, zerolinecolor: text, automargin: true, ...layout[name] };
  }
  return layout;
}

function drawCharts() {
  for (const place of document.querySelectorAll(".chart")) {
    const chart = JSON.parse(place.dataset.chart);
    for (const bars of chart.data.filter((trace) => trace.type === "bar" && trace.error_x)) {
      bars.error_x.color = getComputedStyle(document.documentElement).getPropertyValue("--text");
    }
    Plotly.react(place, chart.data, layoutOf(chart), { responsive: true, displaylogo: false, displayModeBar: false });
  }
}

// --------------------------------------------------------------------------------------------------------- what if

/** Minimise the mixture's loss plus strength KL(shares || equal shares) over low <= share <= high, sum 1. */
class Problem {
  constructor(content) {
    Object.assign(this, content);
    this.count = this.sources.length;
    this.logs = new Float32Array(bytes(content.log_probs));
    this.F = new Float64Array(this.logs.length);
    this.w = new Float64Array(bytes(content.weights));
  }

  /** Divide every row's likelihoods by the largest of a source that may have a share: another's may be out of reach. */
  scaleTo(allowed) {
    const p = this.count;
    this.offset = this.constant;
    for (let i = 0, row = 0; i < this.w.length; i++, row += p) {
      let best = -Infinity;
      for (let k = 0; k < p; k++) if (allowed[k]) best = Math.max(best, this.logs[row + k]);
      for (let k = 0; k < p; k++) {
        this.F[row + k] = allowed[k] && best > -Infinity ? Math.exp(this.logs[row + k] - best) : 0;
      }
      this.offset -= this.w[i] * best;
    }
  }

  /** Return value (loss and pull), loss and the value's gradient. */
  evaluate(shares, strength) {
    const p = this.count, gradient = new Float64Array(p);
    let loss = this.offset;
    for (let i = 0, row = 0; i < this.w.length; i++, row += p) {
      let mixed = 0;
      for (let k = 0; k < p; k++) mixed += this.F[row + k] * shares[k];
      loss -= this.w[i] * Math.log(mixed);
      const scale = this.w[i] / mixed;
      for (let k = 0; k < p; k++) gradient[k] -= scale * this.F[row + k];
    }
    let value = loss;
    for (let k = 0; k < p; k++) {
      if (strength > 0 && shares[k] > 0) {
        value += strength * shares[k] * Math.log(shares[k] * p);
        gradient[k] += strength * (Math.log(shares[k] * p) + 1);
      }
    }
    return { value, loss, gradient };
  }

  /** Exponentiated gradient descent with a step size that adapts; ends on a certified gap, nats per token. */
  solve(low, high, strength, tolerance = 1e-5, most = 3000) {
    this.scaleTo(high.map((limit) => limit > 0));
    let shares = project(new Array(this.count).fill(1), low, high), at = this.evaluate(shares, strength), step = 1;
    let gap = Infinity;
    for (let round = 0; round < most; round++) {
      gap = certifiedGap(shares, at.gradient, low, high);
      if (gap < tolerance) break;
      const least = Math.min(...at.gradient);
      const moved = shares.map((share, k) => share * Math.exp(Math.max(-500, -step * (at.gradient[k] - least))));
      const next = project(moved, low, high), there = this.evaluate(next, strength);
      if (there.value <= at.value) { shares = next; at = there; step *= 1.3; }
      else if ((step /= 2) < 1e-12) break;
    }
    return { shares, loss: at.loss, gap };
  }
}

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
}

/** Scale positive numbers so that, cut to their limits, they sum to 1. */
function project(values, low, high) {
  const shares = (scale) => values.map((value, k) => Math.min(high[k], Math.max(low[k], scale * value)));
  const sum = (scale) => shares(scale).reduce((total, share) => total + share, 0);
  let below = -700, above = 700; // logarithms of the scale
  for (let i = 0; i < 100; i++) {
    const middle = (below + above) / 2;
    if (sum(Math.exp(middle)) < 1) below = middle; else above = middle;
  }
  return shares(Math.exp(above));
}

/** Bound how far the value is above the smallest one: <gradient, shares - s> for the best s within the limits. */
function certifiedGap(shares, gradient, low, high) {
  const order = [...gradient.keys()].sort((a, b) => gradient[a] - gradient[b]);
  let left = 1 - low.reduce((total, limit) => total + limit, 0);
  let gap = shares.reduce((total, share, k) => total + gradient[k] * (share - low[k]), 0);
  for (const k of order) {
    const room = Math.min(left, high[k] - low[k]);
    gap -= room * gradient[k];
    left -= room;
  }
  return Math.max(0, gap);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function buildPanel(place) {
  const problem = new Problem(JSON.parse(place.dataset.problem));
  const row = (name, value, most, step) => {
    const line = document.createElement("label");
    line.className = "row";
    line.innerHTML = '<span class="name"></span><input type="range" min="0"><output></output>';
    line.querySelector(".name").textContent = name;
    Object.assign(line.querySelector("input"), { max: most, step, value });
    place.append(line);
    return line;
  };
  const caps = problem.sources.map((name, k) => row(name, problem.limits[k][1], 1, "any"));
  const pull = row("pull to equal", 0, 100, 1);
  const outcome = document.createElement("p");
  outcome.className = "outcome";
  place.append(outcome);
  const low = problem.limits.map((limit) => limit[0]);

  function update() {
    const high = caps.map((line, k) => Math.max(low[k], Number(line.querySelector("input").value)));
    if (high.reduce((total, limit) => total + limit, 0) < 1 - 1e-9) {
      outcome.textContent = "These limits leave no mixture: they sum to less than 100 %.";
      return;
    }
    // The slider is logarithmic from 0.0001 to 1 nat; 0 is no pull.
    const place = Number(pull.querySelector("input").value), strength = place ? 10 ** (place / 25 - 4) : 0;
    const answer = problem.solve(low, high, strength);
    caps.forEach((line, k) => {
      line.querySelector("output").textContent = `${percent(answer.shares[k])} (≤ ${Math.round(100 * high[k])} %)`;
    });
    pull.querySelector("output").textContent = strength ? `${strength.toPrecision(2)} nats` : "none";
    if (!Number.isFinite(answer.loss)) {
      outcome.textContent = `These limits leave ${problem.sampled}s that no source explains.`;
      return;
    }
    const rise = answer.loss - problem.loss;
    outcome.textContent = `Predicted loss ${answer.loss.toFixed(4)} ${problem.unit}, ` +
      `${Math.abs(rise).toFixed(4)} ${rise < 0 ? "below" : "above"} the run's mixture; solved to ${answer.gap.toExponential(0)}.`;
  }
  place.addEventListener("input", update);
  update();
}

drawCharts();
isDark.addEventListener("change", drawCharts);
document.querySelectorAll(".what-if").forEach(buildPanel);
