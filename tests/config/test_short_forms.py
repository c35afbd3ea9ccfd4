"""What a person types too short is refused with the right form, which the schema accepts."""

from __future__ import annotations

import shlex

import pytest

from mixray.config import RunFile, parse_config
from mixray.errors import InputError

ROBUST = "name: digits\ndata: {digits: {}}\nsteps: 5\n"


def remedy(text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_config(text, overrides, name="run.yaml", kind=RunFile)
    return caught.value.remedy or ""


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tokenizer=gpt2", "write 'tokenizer={hub: gpt2}' or 'tokenizer={path: gpt2}'"),
        ("tokenizer=train", "write 'tokenizer={train: {}}'"),
        ("tokenizer.train=4096", "write tokenizer.train.vocab_size=4096 or tokenizer.train.sample_bytes=4096"),
        ("sources.python=/data/*.jsonl", "write 'sources.python={jsonl: /data/*.jsonl}'"),
        ("sources.python=[a.jsonl.gz, b.jsonl.gz]", "write 'sources.python={jsonl: [a.jsonl.gz, b.jsonl.gz]}'"),
        ("targets=/data/*.parquet", "write 'targets.NAME={parquet: /data/*.parquet}'"),
        ("proxy.model=gpt2", "write 'proxy.model={architecture: gpt2}' or 'proxy.model={pretrained: gpt2}'"),
        ("proxy.resources=2", "write proxy.resources.cpus=2 or proxy.resources.gpus=2"),
        ("retrain.objective=group_dro", "write retrain.objective.kind=group_dro"),
        ("retrain.arms=mixmin", "write 'retrain.arms=[mixmin]'"),
        ("retrain.arms=mixmin,natural", "write 'retrain.arms=[mixmin, natural]'"),
        ("mixture=worst", "write mixture.over=worst"),
        ("mixture.prior=natural", "write mixture.prior.shares=natural"),
        ("tracking=http://there:5000", "write tracking.uri=http://there:5000"),
        ("mixture.bounds.cpp=0.3", "write 'mixture.bounds.cpp=[0, 0.3]' for at most 0.3, [0.3, 1] for at least 0.3"),
        ("mixture.bounds=0.3", "write 'mixture.bounds.NAME=[0, 0.3]' for at most 0.3"),
        ("bounds.cpp=0.3", "did you mean 'mixture.bounds.cpp'? write 'mixture.bounds.cpp=[0, 0.3]' for at most 0.3"),
        ("bounds.cpp=[0, 0.3]", "did you mean 'mixture.bounds.cpp'?"),
        ("arms=natural", "did you mean 'retrain.arms'? write 'retrain.arms=[natural]'"),
        ("tokens=5", "did you mean 'proxy.tokens' or 'swarm.tokens' or 'doremi.tokens' or 'retrain.tokens'?"),
        ("proxy.seed=5", "did you mean 'seed'?"),
    ],
)
def test_an_override_that_is_too_short_gets_the_right_form(text: str, override: str, expected: str) -> None:
    assert remedy(text, override).startswith(expected)


@pytest.mark.parametrize("override", ["proxy.optimizer=adam", "mixture.bounds.cpp=7", "tokenizer=7", "colour=red"])
def test_what_is_near_nothing_gets_no_form(text: str, override: str) -> None:
    assert remedy(text, override) == ""


@pytest.mark.parametrize(
    "override",
    [
        "tokenizer=gpt2",
        "sources.cpp=a.jsonl",
        "proxy.model=gpt2",
        "mixture.bounds.cpp=0.3",
        "bounds.cpp=0.3",
        "mixture.prior=natural",
        "retrain.arms=mixmin",
    ],
)
def test_the_right_form_is_accepted_as_it_would_be_pasted_into_a_shell(text: str, override: str) -> None:
    first = shlex.split(remedy(text, override).partition("write ")[2])[0]
    parse_config(text, [first])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("tokenizer: {train: {}}", "tokenizer: gpt2", "write tokenizer: {hub: gpt2} or tokenizer: {path: gpt2}"),
        ('{files: "*.txt"}', "'*.csv'", "write tests: {csv: '*.csv'} in targets"),
        ("name: demo", "name: demo\nbounds: {cpp: 0.3}", "did you mean 'mixture.bounds.cpp'? write cpp: [0, 0.3] in"),
    ],
)
def test_a_line_of_the_file_that_is_too_short_gets_the_right_form(text: str, old: str, new: str, expected: str) -> None:
    assert remedy(text.replace(old, new)).startswith(expected)


def test_a_robust_run_file_too() -> None:
    assert remedy(ROBUST, "data=digits") == "write 'data={digits: {}}'"
    assert remedy(ROBUST, "arms=erm,also") == "write 'arms=[erm, also]'"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["b.yaml"], "name one run file; put a pattern of data files in quotes"),
        (["sources.cpp.jsonl=", "/data/a.jsonl", "/data/b.jsonl"], "put a pattern of data files in quotes"),
        (["seed=1", "seed"], "put quotes around an override with spaces"),
        (["proxy={tokens:", "5}"], "put quotes around an override with spaces"),
        (["sources.cpp.files=a", "sources.cpp.files=b"], "write 'sources.cpp.files=[a, b]'"),
    ],
)
def test_what_a_shell_has_taken_apart_is_named(text: str, overrides: list[str], expected: str) -> None:
    assert expected in remedy(text, *overrides)
