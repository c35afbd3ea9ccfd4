"""Targets of prompts with completions: what their rows hold, what identifies them, and what is left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixray.data import prepare
from mixray.data.check import check_inputs
from mixray.data.pools import Prepared
from mixray.data.reading.parts import list_pool
from mixray.data.reading.row_texts import Example
from mixray.data.text.documents import read_documents
from mixray.data.text.tokenizer import Encoder
from mixray.errors import InputError
from mixray.store import Artifact, Artifacts
from mixray.store.tables import read_table
from mixray.store.target_parts import part_files, tokens_read

QUESTIONS = [{"q": f"Which number follows {number}?", "a": f"{number + 1} does"} for number in range(60)]
ITEMS = [
    {"q": f"Which word is number {number}?", "o": ["a stone", "water", "warm air"], "label": number % 3}
    for number in range(60)
]
PAIR = {"prompt": "{q} Answer:", "completion": " {a}"}
CHOICE = {"prompt": "{q}", "completion": " {answer}", "answer": {"options": "o", "label": "label"}}
Make = Callable[..., Prepared]


@pytest.fixture
def made(artifacts: Artifacts, run_config: Any, write_jsonl: Callable[..., Path], mapper: Any, tmp_path: Path) -> Make:
    texts = [f"source {number} follows a question" for number in range(50)]

    def make(rows: list[dict[str, Any]], *, source: list[str] | None = None, **target: Any) -> Prepared:
        content, file = "".join(json.dumps(row) + "\n" for row in rows), tmp_path / "t.jsonl"
        if not file.exists() or file.read_text() != content:  # an untouched file is not read again without need
            file.write_text(content)
        sources = {"code": {"jsonl": str(write_jsonl("a.jsonl", texts + (source or [])))}}
        goal = {"jsonl": str(tmp_path / "t.jsonl"), **target}
        return prepare(run_config(sources, {"goal": goal}), artifacts, mapper, lambda _: None)

    return make


def rows_of(artifacts: Artifacts, rows: Artifact, part: Any) -> list[dict[str, Any]]:
    tables = [read_table(artifacts.storage, rows.files[name]) for name in part_files(rows, part)]
    return pa.concat_tables(tables).to_pylist() if tables else []


def test_rows_end_with_the_tokens_of_the_completion(made: Make, artifacts: Artifacts) -> None:
    """Encoded with their prompts as one text; the prompts count no tokens, but they are read."""
    prepared = made(QUESTIONS, **PAIR)
    rows, encoder = prepared.targets["goal"], Encoder.of(artifacts.storage, prepared.tokenizer)  # type: ignore[arg-type]
    expected = Counter[tuple[tuple[int, ...], tuple[int, ...]]]()
    for row in QUESTIONS:
        prompt, whole = encoder._ids([f"{row['q']} Answer:", f"{row['q']} Answer: {row['a']}"])
        assert whole[: len(prompt)] == prompt
        context, completion = [encoder.end_of_document, *prompt], whole[len(prompt) :]
        expected[tuple(context[-(17 - len(completion)) :]), tuple(completion)] += 1
    found, tokens = Counter[tuple[tuple[int, ...], tuple[int, ...]]](), 0
    for part in ("fit", "held_out"):
        table = rows_of(artifacts, rows, part)
        for row in table:
            found[tuple(row["tokens"][: -row["count"]]), tuple(row["tokens"][-row["count"] :])] += 1
        meta = rows.meta[part]
        assert meta["tokens"] == sum(row["count"] for row in table)
        assert tokens_read(rows, part) == sum(len(row["tokens"]) - 1 for row in table)
        tokens += meta["tokens"]
    assert found == expected
    assert any(len(context) + len(completion) == 17 for context, completion in found), "some prompts are cut"
    counts = prepared.counts["target goal"]
    assert (counts["tokens"], counts["bytes"]) == (tokens, sum(len(f" {row['a']}") for row in QUESTIONS))
    assert part_files(rows, "options") == []


def test_a_token_that_spans_both_belongs_to_the_completion(made: Make, artifacts: Artifacts) -> None:
    prepared = made(QUESTIONS, **PAIR, source=["a nswer nswer"] * 9)
    encoder = Encoder.of(artifacts.storage, prepared.tokenizer)  # type: ignore[arg-type]
    ((whole, context),) = encoder.encode_options(Example("a question fol", "lows", ("lows",)))
    assert whole == encoder._ids(["a question follows"])[0]
    assert context < len(encoder._ids(["a question fol"])[0])


def test_where_the_prompt_ends_is_part_of_the_identity(made: Make) -> None:
    """The texts are the same, and the sources that hold them lose them."""
    first = made(QUESTIONS, **PAIR)
    assert first.targets["goal"].id[:16] == "fcb3c3c5c2f64433", "what users have stored"
    other = made(QUESTIONS, prompt="{q}", completion=" Answer: {a}")
    assert other.targets["goal"].id != first.targets["goal"].id
    assert made([*QUESTIONS, QUESTIONS[3]], **PAIR).targets["goal"].id == first.targets["goal"].id
    told = made(QUESTIONS, **PAIR, source=[f"{row['q']} Answer: {row['a']}" for row in QUESTIONS[:7]])
    assert told.counts["source code"]["in_target"] == 7


def test_a_sample_counts_the_tokens_of_completions(made: Make) -> None:
    counts = made(QUESTIONS, **PAIR, max_tokens=60).counts["target goal"]
    whole = made(QUESTIONS, **PAIR).counts["target goal"]
    assert 60 <= counts["tokens"] < 60 + whole["tokens"] / 30
    assert counts["documents"] < whole["documents"] == 60


def test_all_options_of_the_held_out_items_are_stored(made: Make, artifacts: Artifacts) -> None:
    prepared = made(ITEMS, **CHOICE)
    rows, encoder = prepared.targets["goal"], Encoder.of(artifacts.storage, prepared.tokenizer)  # type: ignore[arg-type]
    held_out = {row["document"]: row for row in rows_of(artifacts, rows, "held_out")}
    options = rows_of(artifacts, rows, "options")
    assert Counter(row["document"] for row in options) == dict.fromkeys(held_out, 3)
    for row in options:
        scored = held_out[row["document"]]["tokens"]  # whose prompt is cut for the right option alone
        assert (row["tokens"] == scored[-len(row["tokens"]) :]) == row["is_right"]
        ending = encoder._ids([f"? {ITEMS[0]['o'][row['option']]}"])[0][1:]
        assert row["tokens"][-row["count"] :] == ending
        assert row["window"] == row["option"]
    other = [{**row, "o": [*row["o"][:2], "hot air"] if row["label"] != 2 else row["o"]} for row in ITEMS]
    assert made(other, **CHOICE).targets["goal"].id != rows.id, "wrong options are part of the identity"


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_what_a_row_gives(reader: str, target: Any, tmp_path: Path) -> None:
    rows = [
        {"q": "One?", "a": "yes", "o": ["no", "yes", None], "label": 1},
        {"q": "Two?", "a": " ", "o": ["no", ""], "label": 0},
        {"q": None, "a": "yes", "o": ["no"], "label": 0},
        {"q": "Four?", "a": None, "o": ["maybe", "no"], "label": 1},
    ]
    if reader == "jsonl":
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")

    def read(**settings: Any) -> tuple[list[Any], int]:
        pool, counts = target(**{reader: f"{tmp_path}/a.{reader}"}, **settings), Counter[str]()
        documents = [each for part in list_pool(pool).parts for each in read_documents(pool, part, counts)]
        return [document.example for document in documents], counts["skipped_empty"]

    assert read(prompt="q", completion="a") == ([Example("One?", "yes", (), 0)], 3)
    assert read(prompt="Q: {q}", completion=" {answer}", answer=CHOICE["answer"]) == (
        [
            Example("Q: One?", " yes", (" no", " yes"), 1),
            Example("Q: Two?", " no", (), 0),
            Example("Q: Four?", " no", (" maybe", " no"), 1),
        ],
        1,
    )


@pytest.mark.parametrize("blank", [None, "", " "])
def test_a_blank_option_is_none_whatever_stands_around_it(blank: str | None, target: Any, tmp_path: Path) -> None:
    rows = [
        {"q": "One?", "a": "yes", "b": "no", "c": blank, "label": 1},
        {"q": "Two?", "a": blank, "b": "no", "c": "yes", "label": 2},
        {"q": "Three?", "a": blank, "b": "no", "c": "yes", "label": 0},
        {"q": "Four?", "a": blank, "b": "no", "c": blank, "label": 1},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = {"options": ["a", "b", "c"], "label": "label"}
    pool = target(jsonl=f"{tmp_path}/a.jsonl", prompt="q", completion=" It is {answer}.", answer=answer)
    counts = Counter[str]()
    examples = [each.example for part in list_pool(pool).parts for each in read_documents(pool, part, counts)]
    assert examples == [
        Example("One?", " It is no.", (" It is yes.", " It is no."), 1),
        Example("Two?", " It is yes.", (" It is no.", " It is yes."), 1),
        Example("Four?", " It is no.", (), 0),
    ]
    assert counts["skipped_empty"] == 1


def test_a_target_whose_items_have_one_option_each_has_no_rows_of_options(made: Make) -> None:
    prepared = made([{**row, "o": row["o"][:1], "label": 0} for row in ITEMS], **CHOICE)
    assert prepared.counts["target goal"]["tokens"] > 0
    assert part_files(prepared.targets["goal"], "options") == []


def test_completions_that_add_no_token_are_not_counted(
    artifacts: Artifacts, run_config: Any, mapper: Any, tmp_path: Path
) -> None:
    """A normaliser leaves nothing of a space without width, a completion of which is not blank."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[EOS]", "q", "one", "two", *map(str, range(60))]
    tokenizer = Tokenizer(models.WordPiece(dict(zip(words, range(len(words)), strict=True)), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[EOS]").save_pretrained(tmp_path / "words")
    rows = [{"q": f"q {number}", "o": ["one", "two"], "label": 0} for number in range(60)]
    rows += [{**row, "o": ["one", "\u200b"], "label": number % 2} for number, row in enumerate(rows)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"one two {number}"}) + "\n" for number in range(60)))
    config = run_config(
        {"code": {"jsonl": f"{tmp_path}/a.jsonl"}},
        {"goal": {"jsonl": f"{tmp_path}/t.jsonl", **CHOICE}},
        tokenizer={"path": str(tmp_path / "words")},
    )
    target = prepare(config, artifacts, mapper, lambda _: None).targets["goal"]
    parts = {part: rows_of(artifacts, target, part) for part in ("fit", "held_out", "options")}
    assert all(row["count"] == 1 for part in parts.values() for row in part)
    assert sum(target.meta[part]["documents"] for part in ("fit", "held_out")) == 90
    assert sum(len(parts[part]) for part in ("fit", "held_out")) == 90
    held_out = Counter(row["document"] for row in parts["options"])
    assert set(held_out.values()) == {2}
    assert held_out.keys() < {row["document"] for row in parts["held_out"]}


@pytest.mark.parametrize("words", [1, 6, 40])
def test_what_is_read_beside_the_completions_is_estimated(
    words: int, artifacts: Artifacts, run_config: Any, mapper: Any, tmp_path: Path
) -> None:
    """Of short prompts and of those that are cut. Completions have about as many bytes a token as prompts have."""
    rows = [
        {**row, "q": f"{number}? " + "odd " * words, "o": row["o"][: 2 + row["label"] // 2]}
        for number, row in enumerate(ITEMS)
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [f"source {number} follows a question" for number in range(50)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = run_config(
        {"code": {"jsonl": f"{tmp_path}/a.jsonl"}}, {"goal": {"jsonl": f"{tmp_path}/t.jsonl", **CHOICE}}
    )
    checked = check_inputs(config)
    target = prepare(config, artifacts, mapper, lambda _: None).targets["goal"]
    read = sum(tokens_read(target, part) for part in ("fit", "held_out"))
    scored = sum(target.meta[part]["tokens"] for part in ("fit", "held_out"))
    assert checked.reads == {"target goal": pytest.approx(read / scored, rel=0.15)}
    assert checked.options == {"target goal": pytest.approx(7 / 3)}


@pytest.mark.parametrize("value", [5, "xyz", {"a": "b"}, [["a"], ["b"]]])
@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
@pytest.mark.parametrize("key", ["options", "labels"])
def test_options_and_labels_are_lists(key: str, reader: str, value: object, target: Any, tmp_path: Path) -> None:
    row = {"q": "One?", "o": ["a", "b"], "l": ["A", "B"], "label": "A"} | {key[0]: value}
    if reader == "jsonl":
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    answer = {"options": "o", "label": "label", "labels": "l"}
    pool = target(**{reader: f"{tmp_path}/a.{reader}"}, prompt="q", completion=" {answer}", answer=answer)
    with pytest.raises(InputError) as caught:
        [each for part in list_pool(pool).parts for each in read_documents(pool, part, Counter[str]())]
    for message in ("a column holds no list", f"targets.goal.answer.{key}", f"got: {key[0]} = ", "wanted: a list"):
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ({"completion": " {body}"}, ["a column is missing", "targets.goal.completion", "got: body, but"]),
        ({"prompt": "body"}, ["a column is missing", "targets.goal.prompt", "got: body, but"]),
        ({"prompt": "{q"}, ["a template cannot be read", "targets.goal.prompt", "got: {q ("]),
        ({"completion": "empty"}, ["the target goal has no documents left", "60 skipped_empty"]),
    ],
)
def test_defects_are_seen_before_anything_starts(
    settings: dict[str, str], messages: list[str], run_config: Any, tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({**row, "empty": ""}) + "\n" for row in QUESTIONS))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    target = {"jsonl": f"{tmp_path}/t.jsonl", **PAIR, **settings}
    with pytest.raises(InputError) as caught:
        check_inputs(run_config({"code": {"jsonl": f"{tmp_path}/a.jsonl"}}, {"goal": target}))
    for message in messages:
        assert message in str(caught.value)
