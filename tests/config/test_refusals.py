"""Every way a run file or an override is wrong: what, where, got, wanted, remedy."""

from __future__ import annotations

from typing import Any

import pytest

from mixray.config import dump_config, parse_config
from mixray.config.loading import Overrides
from mixray.config.training import HeadConfig
from mixray.errors import InputError


def refusal(text: str, overrides: Overrides = ()) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_config(text, overrides, name="run.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "key", "line", "near"),
    [
        ("window: 8", "window: 8\nsed: 1", "sed", 4, "seed"),
        ('{files: "*.py"}', '{flies: "*.py"}', "sources.python.flies", 5, "files"),
        ('files: "*.h"', 'files: "*.h"\n    txt: a', "sources.cpp.txt", 8, "text"),
        ('{files: "*.txt"}', '{files: "*.txt", heldout: 0.5}', "targets.tests.heldout", 9, "held_out"),
        ("{train: {}}", "{train: {vocabsize: 500}}", "tokenizer.train.vocabsize", 2, "vocab_size"),
        (
            "tokens: 1000",
            "tokens: 1000\n  optimizer:\n    learning_rte: 1",
            "proxy.optimizer.learning_rte",
            14,
            "learning_rate",
        ),
        ("tokens: 2000", "tokens: 2000\n  objective: {kin: erm}", "retrain.objective.kin", 16, "kind"),
        ("window: 8", "window: 8\ncolour: red", "colour", 4, None),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one(
    text: str, old: str, new: str, key: str, line: int, near: str | None
) -> None:
    error = refusal(text.replace(old, new))
    assert (error.what, error.where) == (f"unknown key {key!r}", f"run.yaml, line {line}")
    assert error.remedy == (near and f"did you mean {near!r}?")
    assert near is None or near in str(error.wanted).split("one of ")[1].split(", ")


@pytest.mark.parametrize(
    ("old", "new", "key", "line", "got", "wanted"),
    [
        ("window: 8", "window: wide", "window", 3, "'wide'", "a valid integer"),
        ("window: 8", "window: 1", "window", 3, "1", "greater than or equal to 2"),
        ("name: demo", "name: my run", "name", 1, "'my run'", "a name of letters, digits, - and _ that begins with"),
        ("name: demo", "name: [a]", "name", 1, "['a']", "a valid string"),
        ("tokens: 1000", "tokens: -5", "proxy.tokens", 12, "-5", "greater than 0"),
        ("tokens: 1000", "tokens: 1000\n  fraction: 0.1", "proxy", 10, None, "exactly one of tokens, fraction"),
        ("  tokens: 1000\n", "", "proxy", 10, None, "exactly one of tokens, fraction"),
        ("tokens: 1000", "tokens: 63", "proxy.tokens", 12, "63", "at least one step of 128 tokens (batch x window)"),
        (
            "tokens: 1000",
            "fraction: 0.01",
            "proxy.fraction",
            12,
            "0.01",
            "one step of 128 tokens (batch x window); it is 20",
        ),
        ("tokens: 2000", "tokens: 64", "retrain.tokens", 15, "64", "at least one step of 128 tokens"),
        ('{files: "*.txt"}', "{jsonl: a, prompt: q}", "targets.tests.completion", 9, None, "because 'prompt' is given"),
        ('{files: "*.txt"}', "{jsonl: a, completion: q}", "targets.tests.prompt", 9, None, "because 'completion' is"),
        (
            '{files: "*.txt"}',
            "{files: a, prompt: q, completion: c}",
            "targets.tests.prompt",
            9,
            "'q'",
            "a target with columns; 'files' has none",
        ),
        (
            '{files: "*.txt"}',
            "{jsonl: a, prompt: q, completion: c, text: t}",
            "targets.tests.text",
            9,
            "'t'",
            "left out beside 'prompt' and 'completion'",
        ),
        (
            '{files: "*.txt"}',
            "{jsonl: a, prompt: q, completion: c, answer: {options: o, label: l}}",
            "targets.tests.completion",
            9,
            "'c'",
            "a template with {answer}",
        ),
        (
            '{files: "*.txt"}',
            '{jsonl: a, prompt: "{answer}", completion: "{answer}", answer: {options: o, label: l}}',
            "targets.tests.prompt",
            9,
            "'{answer}'",
            "a template without {answer}",
        ),
        (
            '{files: "*.txt"}',
            "{jsonl: a, prompt: q, completion: c, chat_template: true}",
            "targets.tests.chat_template",
            9,
            "True",
            "tokenizer.hub or path beside it; one trained has none",
        ),
        (
            '{files: "*.txt"}',
            "{jsonl: a, prompt: q, completion: c, system: s}",
            "targets.tests.chat_template",
            9,
            None,
            "true beside 'system'",
        ),
        (
            '{files: "*.txt"}',
            "{jsonl: a, messages: m, prompt: q, chat_template: true}",
            "targets.tests.prompt",
            9,
            "'q'",
            "left out beside 'messages'",
        ),
        (
            '{files: "*.txt"}',
            "{jsonl: a, chat_template: true}",
            "targets.tests.chat_template",
            9,
            "True",
            "it is for 'prompt' and 'completion', or 'messages'",
        ),
        (
            "tokens: 2000",
            "tokens: 2000\n  workers: [3, 2]",
            "retrain.workers",
            16,
            "[3, 2]",
            "[min, max] with min <= max",
        ),
        ("tokens: 2000", "tokens: 2000\n  workers: 0", "retrain.workers", 16, "0", "greater than 0 or a list"),
        ("tokens: 2000", "tokens: 2000\n  workers: [1, a]", "retrain.workers.1", 16, "'a'", "a valid integer"),
        (
            "tokens: 2000",
            "tokens: 2000\n  workers: 17",
            "retrain.workers",
            16,
            "17",
            "at most 16, the windows of a batch",
        ),
        ("tokens: 2000", "tokens: 2000\n  arms: []", "retrain.arms", 16, "[]", "at least 1 item"),
        (
            "tokens: 2000",
            "tokens: 2000\n  arms: [best]",
            "retrain.arms.0",
            16,
            "'best'",
            "'mixmin', 'balanced', 'natural', ",
        ),
        (
            "tokens: 2000",
            "tokens: 2000\n  arms:\n  - natural\n  - natural",
            "retrain.arms",
            16,
            "['natural', 'natural']",
            "every arm named once",
        ),
        (
            '{files: "*.py"}',
            "{}",
            "sources.python",
            5,
            None,
            "exactly one of files, jsonl, parquet, csv, dataset; it has none",
        ),
        ('{files: "*.py"}', "{files: a, dataset: b}", "sources.python", 5, None, "it has files, dataset"),
        ('{files: "*.py"}', "nothing", "sources.python", 5, "'nothing'", "a section of keys and values"),
        ('{files: "*.py"}', "{files: 3}", "sources.python.files", 5, "3", "a valid string or a list"),
        ('{files: "*.py"}', "{files: [a, 3]}", "sources.python.files.1", 5, "3", "a valid string"),
        ('{files: "*.py"}', "{files: []}", "sources.python.files", 5, "[]", "at least 1 item"),
        ('{files: "*.py"}', "{files: a, where: {b: c}}", "sources.python.where", 5, None, "text files have none"),
        ('{files: "*.py"}', "{files: a, revision: b}", "sources.python", 5, None, "belong to 'dataset'"),
        ('{files: "*.py"}', "{dataset: a, exclude: [b]}", "sources.python.exclude", 5, "['b']", "a data set has none"),
        (
            "python:",
            "my code:",
            "sources.my code",
            5,
            "'my code'",
            "a name of letters, digits, - and _ that begins with",
        ),
        (
            "python:",
            "count:",
            "sources.count",
            5,
            None,
            "another name: the prediction cache has columns document, window",
        ),
        ("python:", "2024:", "sources.2024", 5, "2024", "a valid string"),
        ('{files: "*.txt"}', "{files: a, held_out: 1.0}", "targets.tests.held_out", 9, "1.0", "less than 1"),
        ("{train: {}}", "{}", "tokenizer", 2, None, "exactly one of train, hub, path"),
        ("{train: {}}", "{hub: a, path: b}", "tokenizer", 2, None, "exactly one of train, hub, path"),
        ("{train: {}}", "{path: b, revision: c}", "tokenizer.revision", 2, "'c'", "a tokenizer of the hub"),
        (
            "{train: {}}",
            "{train: {vocab_size: 10}}",
            "tokenizer.train.vocab_size",
            2,
            "10",
            "greater than or equal to 300",
        ),
        (
            "{train: {}}",
            "{train: {sources: [go]}}",
            "tokenizer.train.sources",
            2,
            "['go']",
            "python, cpp; 'go' is none",
        ),
        (
            "model: {architecture: gpt_neox}\n  tokens: 1",
            "model: {}\n  tokens: 1",
            "proxy.model",
            11,
            "{}",
            "exactly one of",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_line(
    text: str, old: str, new: str, key: str, line: int, got: str | None, wanted: str
) -> None:
    error = refusal(text.replace(old, new, 1))
    assert (error.what, error.where, error.got) == (f"{key} is not valid", f"run.yaml, line {line}", got)
    assert wanted in str(error.wanted)


@pytest.mark.parametrize(
    ("mixture", "key", "got", "wanted"),
    [
        ("{bounds: {go: [0, 1]}}", "mixture.bounds.go", "[0, 1]", "the name of a source: python, cpp"),
        ("{bounds: {cpp: [0.5, 0.4]}}", "mixture.bounds.cpp", "[0.5, 0.4]", "[low, high] with low <= high"),
        ("{bounds: {cpp: [0, 1.5]}}", "mixture.bounds.cpp.1", "1.5", "less than or equal to 1"),
        ("{bounds: {cpp: 0.5}}", "mixture.bounds.cpp", "0.5", "a list [first, second]"),
        ("{bounds: {cpp: [0.7, 1], python: [0.7, 1]}}", "mixture.bounds", None, "sum to at most 1; they sum to 1.4"),
        ("{bounds: {cpp: [0, 0.2], python: [0, 0.3]}}", "mixture.bounds", None, "sum to at least 1; they sum to 0.5"),
        (
            "{unit: token}",
            "mixture.unit",
            "'token'",
            "{segment: a multiple of 16}, document or window; or cache.segment: 1",
        ),
        ("{unit: {segment: 8}}", "mixture.unit.segment", "8", "or cache.segment: 8 beside it"),
        ("{unit: {segment: 0}}", "mixture.unit.segment", "0", "greater than 0"),
        ("{unit: sentence}", "mixture.unit", "'sentence'", "'document', 'window' or 'token'"),
        ("{solver: adam}", "mixture.solver", "'adam'", "'auto', 'newton', 'working_set' or 'entropic'"),
        ("{solver: em}", "mixture.solver", "'em'", "'auto', 'newton', 'working_set' or 'entropic'"),
        ("{tolerance: 0}", "mixture.tolerance", "0", "greater than 0"),
        ("{tolerance: .nan}", "mixture.tolerance", "nan", "a finite number"),
        ("{max_epochs: -1}", "mixture.max_epochs", "-1", "greater than 0"),
        ("{groups: [{sources: [go]}]}", "mixture.groups.0.sources", "['go']", "'go' is none"),
        ("{groups: [{sources: [cpp], min: 0.5, max: 0.4}]}", "mixture.groups.0.min", "0.5", "at most max, 0.4"),
        ("{groups: [{sources: [cpp, cpp]}]}", "mixture.groups.0.sources", "['cpp', 'cpp']", "every source named once"),
        ("{over: mean, target_weights: {go: 1}}", "mixture.target_weights.go", "1", "the name of a target"),
        ("{over: worst, worst: {tau: -1}}", "mixture.worst.tau", "-1", "greater than or equal to 0"),
        ("{over: worst, solver: entropic}", "mixture.solver", "'entropic'", "worst.tau > 0"),
        ("{prior: {shares: {cpp: 1, python: 0}}}", "mixture.prior.shares.python", "0", "greater than 0"),
        (
            "{prior: {shares: {cpp: 0.6, python: 0.6}}}",
            "mixture.prior.shares",
            None,
            "shares that sum to 1; they sum to 1.2",
        ),
        ("{choose: {within: -1}}", "mixture.choose.within", "-1", "greater than 0"),
        ("{shards: {actors: 0}}", "mixture.shards.actors", "0", "greater than 0"),
        ("{shards: {memory: 2 GiB}}", "mixture.shards.memory", "'2 GiB'", "a valid integer"),
        ("{shards: {resources: {cpus: 0}}}", "mixture.shards.resources.cpus", "0", "greater than 0"),
    ],
)
def test_settings_of_the_mixture_that_allow_none_are_refused(
    text: str, mixture: str, key: str, got: str | None, wanted: str
) -> None:
    error = refusal(text + f"mixture: {mixture}\n")
    assert (error.what, error.where, error.got) == (f"{key} is not valid", "run.yaml, line 16", got)
    assert wanted in str(error.wanted)


@pytest.mark.parametrize(
    ("objective", "key", "got", "wanted"),
    [
        ("{kind: dro}", "kind", "'dro'", "erm | group_dro | also"),
        ("{kind: 3}", "kind", "3", "erm | group_dro | also"),
        ("{kind: erm, step_size: 0.1}", "step_size", "0.1", "kind: group_dro or also beside it; erm has no step_size"),
        ("{tau: 0.1}", "tau", "0.1", "kind: group_dro or also beside it; erm has no tau"),
        ("{kind: group_dro, mode: optimistic}", "mode", "'optimistic'", "kind: also beside it; group_dro has no mode"),
        ("{kind: also, alpha: 0.1}", "alpha", "0.1", "kind: group_dro beside it; also has no alpha"),
        ("{kind: also, tau: -1}", "tau", "-1", "greater than or equal to 0"),
        ("{kind: group_dro, alpha: 0}", "alpha", "0", "greater than 0"),
        ("{kind: group_dro, alpha: 0.5, tau: 1}", "tau", "1", "left out beside alpha"),
        ("{kind: group_dro, alpha: 0.5, prior: shares}", "prior", "'shares'", "left out beside alpha"),
        ("{kind: group_dro, prior: {cpp: 1}}", "prior", None, "a weight for every source: python, cpp"),
        ("{kind: also, prior: {cpp: 1, python: 0}}", "prior.python", "0", "greater than 0"),
        (
            "{kind: also, weighting: group_sum, missing: present_only}",
            "missing",
            "'present_only'",
            "left out beside weighting",
        ),
        ("{kind: also, weighting: sample}", "weighting", "'sample'", "'group_mean' or 'group_sum'"),
        ("{kind: group_dro, missing: zero}", "missing", "'zero'", "'inverse_presence', 'present_only', 'ema'"),
        ("{kind: group_dro, groups: column:sex}", "groups", "'column:sex'", "windows of text have no columns"),
        ("{kind: group_dro, excess: target}", "excess", "'target'", "'none' or 'proxy'"),
    ],
)
def test_settings_of_an_objective_that_mean_nothing_are_refused(
    text: str, objective: str, key: str, got: str | None, wanted: str
) -> None:
    error = refusal(text + f"  objective: {objective}\n")
    assert (error.what, error.where) == (f"retrain.objective.{key} is not valid", "run.yaml, line 16")
    assert error.got == got
    assert wanted in str(error.wanted)


def test_an_unknown_key_of_an_objective_is_named(text: str) -> None:
    error = refusal(text + "  objective: {kind: also, stepsize: 1}\n")
    assert (error.what, error.remedy) == ("unknown key 'retrain.objective.stepsize'", "did you mean 'step_size'?")


@pytest.mark.parametrize(
    "bounds",
    [
        "{python: [0.3, 0.3], cpp: [0.7, 0.7]}",
        "{python: [0, 0.5]}",
        "{python: [1, 1]}",
        "{python: [0.3333333333333334, 1], cpp: [0.6666666666666668, 1]}",  # 1 but for rounding
        "{python: [0, 0.3333333333333333], cpp: [0, 0.6666666666666665]}",
    ],
)
def test_bounds_that_leave_one_mixture_are_enough(text: str, bounds: str) -> None:
    assert parse_config(text + f"mixture: {{bounds: {bounds}}}\n").mixture.bounds


@pytest.mark.parametrize("key", ["name", "sources", "targets", "proxy", "retrain"])
def test_a_missing_key_is_named(text: str, key: str) -> None:
    kept = [block for block in text.replace("\n  ", "\t").splitlines() if not block.startswith(f"{key}:")]
    error = refusal("\n".join(kept).replace("\t", "\n  "))
    assert (error.what, error.where) == (f"the key {key!r} is missing", "run.yaml")


@pytest.mark.parametrize("key", ["tokenizer", "window"])
def test_texts_need_a_tokenizer_and_a_window(text: str, key: str) -> None:
    error = refusal("\n".join(line for line in text.splitlines() if not line.startswith(f"{key}:")))
    assert (error.what, error.wanted) == (f"{key} is not valid", "a value; only a run file with examples goes without")


EXAMPLES = """\
name: adult
examples: {label: income, numeric: [age, hours], categorical: [sex]}
sources:
  private: {parquet: "a/*.parquet"}
  public: {csv: b.csv, where: {state: CA}}
targets:
  goal: {csv: c.csv, held_out: 0.3}
proxy: {model: {head: linear}, tokens: 640}
retrain: {model: {head: mlp, hidden: [8]}, tokens: 640, objective: {kind: also, groups: "column:sex"}}
"""


def test_a_run_file_of_examples_is_read() -> None:
    config = parse_config(EXAMPLES)
    assert (config.row_tokens, config.proxy_tokens) == (1, 640)
    assert config.proxy.model == HeadConfig(head="linear")
    assert config.retrain.model == HeadConfig(head="mlp", hidden=(8,))
    assert config.proxy.kind == "classifier"
    assert parse_config(dump_config(config)) == config


@pytest.mark.parametrize(
    ("old", "new", "key", "wanted"),
    [
        ("name: adult", "name: adult\nwindow: 16", "window", "left out beside examples"),
        ("name: adult", "name: adult\ntokenizer: {hub: gpt2}", "tokenizer", "left out beside examples"),
        ("label: income, ", "", "examples.label", None),
        ("label: income", "label: age", "examples.numeric", "inputs; 'age' is the label"),
        ("categorical: [sex]", "categorical: [sex, age]", "examples.categorical", "every column once"),
        ("numeric: [age, hours], categorical: [sex]", "numeric: []", "examples", "columns of inputs"),
        ("categorical: [sex]", "features: embedding", "examples", "features alone"),
        ('{parquet: "a/*.parquet"}', "{jsonl: a.jsonl}", "sources.private.jsonl", "parquet or csv"),
        ('{parquet: "a/*.parquet"}', "{parquet: a, text: body}", "sources.private.text", "it is for texts"),
        ("{model: {head: linear}", "{kind: causal_lm, model: {head: linear}", "proxy.kind", "left out, or classifier"),
        ("model: {head: linear}", "model: {architecture: gpt2}", "proxy.model", "{head: linear | mlp}"),
        ("model: {head: linear}", "model: {head: tree}", "proxy.model.head", "'linear' or 'mlp'"),
        ("{head: linear}, tokens: 640", "{boosted_trees: {}}, tokens: 640", "proxy.tokens", "left out beside boosted_"),
        (
            "{head: linear}, tokens: 640",
            "{boosted_trees: {}}, batch: 8",
            "proxy.batch",
            "left out beside boosted_trees",
        ),
        (
            "{head: linear}, tokens: 640",
            "{boosted_trees: {}}, resources: {gpus: 1}",
            "proxy.resources.gpus",
            "0 beside",
        ),
        ("{head: linear}", "{boosted_trees: {library: catboost}}", "proxy.model.boosted_trees.library", "'lightgbm'"),
        (
            "{head: linear}",
            "{boosted_trees: {depth: 0}}",
            "proxy.model.boosted_trees.depth",
            "greater than or equal to 1",
        ),
        ("{head: linear}", "{boosted_trees: {}, head: linear}", "proxy.model", "exactly one of"),
        ("{head: mlp, hidden: [8]}", "{boosted_trees: {}}", "retrain.tokens", "left out beside boosted_trees"),
        (
            "{head: mlp, hidden: [8]}, tokens: 640",
            "{boosted_trees: {}}",
            "retrain.objective.kind",
            "erm beside boosted_",
        ),
        ("{head: mlp, hidden: [8]}, tokens: 640", "{boosted_trees: {}}, workers: 2", "retrain.workers", "1 beside"),
        ("hidden: [8]", "hidden: [0]", "retrain.model.hidden.0", "greater than 0"),
        ("hidden: [8]", "width: 8", "retrain.model.width", "hidden"),
        ("tokens: 640}", "tokens: 6}", "proxy.tokens", "at least one step of 16 examples (batch)"),
        ('"column:sex"', "sex", "retrain.objective.groups", "source or column:NAME"),
        ('"column:sex"}', '"column:sex", excess: proxy}', "retrain.objective.excess", "none beside groups of a column"),
        ('"column:sex"}', '"column:sex", prior: shares}', "retrain.objective.prior", "uniform, or a weight for every"),
    ],
)
def test_what_examples_do_not_go_with_is_refused(old: str, new: str, key: str, wanted: str | None) -> None:
    assert EXAMPLES.count(old) == 1
    error = refusal(EXAMPLES.replace(old, new))
    assert key in error.what
    assert wanted is None or wanted in str(error.wanted)


def test_texts_and_numbers_have_no_inputs_to_reweight_by(text: str) -> None:
    reweight = {"mixture.covariate_shift": "reweight"}
    texts = refusal(text, reweight)
    assert texts.what == "mixture.covariate_shift is not valid"
    assert "texts have no inputs beside what the models predict" in str(texts.wanted)
    trees = EXAMPLES.replace(', objective: {kind: also, groups: "column:sex"}', "").replace(
        "{head: mlp, hidden: [8]}, tokens: 640", "{boosted_trees: {}}"
    )
    numbers = trees.replace("label: income", "task: regression, label: income").replace(
        "{head: linear}", "{boosted_trees: {}}"
    )
    numbers = numbers.replace(", tokens: 640", "").replace(", batch: 16", "")
    assert "assume_none beside task: regression" in str(refusal(numbers, reweight).wanted)


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("mixture.over", "mean", "mixture.over"),
        ("mixture.bounds", {"private": [0, 0.5]}, "mixture.bounds"),
        ("mixture.groups", [{"sources": ["private"], "max": 0.5}], "mixture.groups"),
        ("mixture.max_epochs", 2, "mixture.max_epochs"),
        ("mixture.prior.strength", 0.1, "mixture.prior.strength"),
        ("mixture.choose.rule", "nearest_to_prior", "mixture.choose.rule"),
        ("mixture.shards", {}, "mixture.shards"),
        ("mixture.unit", "token", "mixture.unit"),
        ("mixture.weighting", "token", "mixture.weighting"),
        ("mixture.solver", "entropic", "mixture.solver"),
        ("mixture.tolerance", 1e-4, "mixture.tolerance"),
        ("mixture.max_rounds", 5, "mixture.max_rounds"),
        ("mixture.bootstrap", 50, "mixture.bootstrap"),
        ("swarm", {}, "swarm"),
        ("retrain.arms", ["mixmin", "nearest_to_prior"], "retrain.arms.1"),
    ],
)
def test_reweighting_knows_one_target_no_limits_and_no_solver_of_the_convex_problem(
    key: str, value: Any, place: str
) -> None:
    assert parse_config(EXAMPLES, {"mixture.covariate_shift": "reweight"}).mixture.covariate_shift == "reweight"
    error = refusal(EXAMPLES, {"mixture.covariate_shift": "reweight", key: value})
    assert error.what == f"{place} is not valid"
    assert "covariate_shift: reweight" in str(error.wanted)


def test_boosted_trees_have_no_budget_that_a_fraction_could_be_of() -> None:
    trees = EXAMPLES.replace(', objective: {kind: also, groups: "column:sex"}', "").replace(
        "{head: mlp, hidden: [8]}, tokens: 640", "{boosted_trees: {}}"
    )
    config = parse_config(trees)
    assert config.proxy_tokens == 640
    assert config.retrain_tokens({"private": 10, "public": 5}) == 15
    assert parse_config(dump_config(config)) == config
    error = refusal(trees.replace("tokens: 640", "fraction: 0.5"))
    assert error.what == "proxy.fraction is not valid"
    assert "tokens in its place" in str(error.wanted)


def test_texts_have_no_examples_settings(text: str) -> None:
    for key, value, wanted in (
        ("proxy.kind", "classifier", "left out, or causal_lm"),
        ("retrain.model", {"head": "linear"}, "a head needs examples"),
        ("retrain", {"model": {"boosted_trees": {}}}, "boosted_trees need examples"),
        ("sources.python", {"csv": "a.csv"}, "csv is for examples"),
    ):
        with pytest.raises(InputError) as caught:
            parse_config(text, {key: value})
        assert wanted in str(caught.value.wanted)


def test_a_missing_key_of_a_section_names_the_sections_line(text: str) -> None:
    error = refusal(text.replace("  tokens: 2000\n", ""))
    assert (error.what, error.where) == ("retrain.tokens is not valid", "run.yaml, line 13")
    assert error.wanted == "a value; only boosted_trees go without"


@pytest.mark.parametrize(
    ("old", "new", "line", "got"),
    [
        ("window: 8", "window: 8\nname: again", 4, "the key 'name' stands twice"),
        ('{files: "*.py"}', "{files: a, files: b}", 5, "the key 'files' stands twice"),
        ("window: 8", "window: [8", 4, "expected ',' or ']'"),
        ("window: 8", "window: 8\n\tx: 1", 4, "cannot start any token"),
        ("window: 8", "window: 8\n---\na: 1", 4, "but found another document"),
        ("window: 8", "window: 8\n? [a]\n: 1", 4, "unhashable key"),
        ("window: 8", "window: &a [*a]", 3, "an alias contains itself"),
        ("window: 8", "window: *nowhere", 3, "undefined alias 'nowhere'"),
        ("window: 8", "window: !!python/name:os.system", 3, "could not determine a constructor"),
    ],
)
def test_broken_yaml_is_named_with_its_line(text: str, old: str, new: str, line: int, got: str) -> None:
    error = refusal(text.replace(old, new, 1))
    assert (error.what, error.where) == ("the run file is not valid YAML", f"run.yaml, line {line}")
    assert got in str(error.got)


@pytest.mark.parametrize(
    ("content", "got"),
    [("", "an empty file"), ("- a", "a list"), ("quickstart", "a single value"), ("3", "a single value")],
)
def test_a_document_that_is_no_mapping_is_refused(content: str, got: str) -> None:
    error = refusal(content)
    assert (error.what, error.where, error.got) == ("the run file is not a mapping", "run.yaml", got)


@pytest.mark.parametrize(
    ("override", "what", "where", "got"),
    [
        ("seed", "an override is not understood", None, "'seed'"),
        ("=1", "an override is not understood", None, "'=1'"),
        ("proxy..tokens=1", "an override is not understood", None, "'proxy..tokens=1'"),
        (".seed=1", "an override is not understood", None, "'.seed=1'"),
        ("seed=[1", "an override's value is not YAML", "the override seed=...", "'[1': while parsing a flow sequence"),
        ("seed={a: 1, a: 2}", "an override's value is not YAML", "the override seed=...", "the key 'a' stands twice"),
        ("window.size=3", "the override 'window.size' goes through a value that has no keys", "window", "8"),
        ("sources.cpp.files.a=b", "the override 'sources.cpp.files.a' goes through", "sources.cpp.files", "'*.h'"),
        ("seed.x=3", "seed is not valid", "the override seed.x=...", "{'x': 3}"),
        ("sed=3", "unknown key 'sed'", "the override sed=...", None),
        ("proxy.optimizer.clp=3", "unknown key 'proxy.optimizer.clp'", "the override proxy.optimizer.clp=...", None),
        ("proxy.optimizer={clp: 3}", "unknown key 'proxy.optimizer.clp'", "the override proxy.optimizer=...", None),
        ("window=two", "window is not valid", "the override window=...", "'two'"),
        ("name=1e5", "name is not valid", "the override name=...", "100000.0"),
        ("sources.go.text=a", "sources.go is not valid", "the override sources.go.text=...", None),
        (
            "mixture.bounds={cpp: [1, 0]}",
            "mixture.bounds.cpp is not valid",
            "the override mixture.bounds=...",
            "[1, 0]",
        ),
        ("window=100", "proxy.tokens is not valid", "run.yaml, line 12", "1000"),
        ("retrain=null", "retrain is not valid", "the override retrain=...", None),
    ],
)
def test_a_wrong_override_is_named(text: str, override: str, what: str, where: str | None, got: str | None) -> None:
    error = refusal(text, [override])
    assert (error.what.startswith(what), error.where) == (True, where), error
    assert got is None or got in str(error.got)


@pytest.mark.parametrize("key", [3, "", "a..b", ("seed",)])
def test_keys_of_a_mapping_of_overrides_are_checked_too(text: str, key: Any) -> None:
    assert refusal(text, {key: 1}).what == "an override is not understood"


def test_a_wrong_name_is_told_even_where_what_it_names_is_wrong_too(text: str) -> None:
    error = refusal(text.replace('python: {files: "*.py"}', "my code: {fils: a}"))
    assert error.what == "sources.my code is not valid"
    assert "also: unknown key 'sources.my code.fils'" in str(error)


def test_all_problems_are_told_at_once_each_once(text: str) -> None:
    error = refusal(text.replace("window: 8", "window: x").replace("name: demo", "nam: demo"), ["seed=-1"])
    assert [line for line in str(error).splitlines() if not line.startswith(" ")] == [
        "the key 'name' is missing",
        "also: seed is not valid",
        "also: window is not valid",
        "also: unknown key 'nam'",
    ]
    assert "  where: the override seed=..." in str(error).splitlines()


SECRETS = {
    "storage=s3://AKIA:hunter2@bucket/mixray": "AWS_SECRET_ACCESS_KEY",
    "storage=s3://bucket/mixray?region=eu&secret_key=hunter2": "AWS_SECRET_ACCESS_KEY",
    "sources.cpp.files=s3://AKIA:hunter2@bucket/*.h": "AWS_SECRET_ACCESS_KEY",
    "storage=s3://bucket/mixray?region=eu&session=hunter2": "options that are no secrets: ",
    "sources.cpp.files=gs://bucket/*.h?credentials=hunter2&scheme=https": "options that are no secrets: ",
    "tracking.uri=mysql://db.example/mlflow?passwd=hunter2": "PGPASSWORD",
    "tracking.uri=https://me:hunter2@mlflow.example": "MLFLOW_TRACKING_PASSWORD",
    "tracking.uri=postgresql://me:hunter2@db.example/mlflow": "PGPASSWORD",
}


@pytest.mark.parametrize("override", SECRETS)
def test_secrets_in_a_run_file_are_refused_without_being_printed(text: str, override: str) -> None:
    error = refusal(text, [override])
    key, _, _ = override.partition("=")
    assert error.what.startswith(f"{key}")
    assert SECRETS[override] in str(error.wanted)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/x?endpoint_override=localhost:9000&region=eu&scheme=http",
        "s3://me@bucket/x",
        "/home/a:b@c/x",
        "/home/what?session=1",
    ],
)
def test_uris_without_secrets_are_fine(text: str, uri: str) -> None:
    assert parse_config(text, [f"storage={uri}"], name="run.yaml").storage == uri
