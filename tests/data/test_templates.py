"""Text made of several columns, and of a multiple-choice item's right answer; in JSON lines and in Parquet."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixray.data.check import check_inputs
from mixray.data.pools import Pool
from mixray.data.reading.parts import list_pool
from mixray.data.text.documents import read_documents
from mixray.errors import InputError

PIQA = {"goal": "Boil an egg:", "sol1": "in water", "sol2": "in glue", "label": 0, "note": None}
ARC = {
    "question": "What boils?",
    "choices": {"text": ["stone", "water", "air"], "label": ["A", "B", "C"]},
    "answerKey": "B",
    "number": 7,
}
TWO = {"options": ["sol1", "sol2"], "label": "label"}
LIST = {"options": "choices.text", "labels": "choices.label", "label": "answerKey"}


def write(rows: list[dict[str, Any]], reader: str, folder: Path) -> dict[str, Any]:
    if reader == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return {reader: f"{folder}/a.{reader}"}


def read(pool: Pool, counts: Counter[str] | None = None) -> list[str]:
    gathered = Counter[str]() if counts is None else counts
    (part,) = list_pool(pool).parts
    return [document.text for document in read_documents(pool, part, gathered)]


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two columns": (PIQA, {"text": "{goal} {sol1}"}, "Boil an egg: in water"),
    "braces and numbers": (ARC, {"text": "{{{number}}} {choices.label}"[:12] + "!"}, "{7}!"),
    "the first option": (PIQA, {"text": "{goal} {answer}", "answer": TWO}, "Boil an egg: in water"),
    "the second option": ({**PIQA, "label": 1}, {"text": "{goal} {answer}", "answer": TWO}, "Boil an egg: in glue"),
    "a number as text": ({**PIQA, "label": "1"}, {"text": "{answer}", "answer": TWO}, "in glue"),
    "labelled options": (ARC, {"text": "{question} {answer}", "answer": LIST}, "What boils? water"),
    "options by number": (
        {**ARC, "number": 2},
        {"text": "{answer}!", "answer": {"options": "choices.text", "label": "number"}},
        "air!",
    ),
}


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
@pytest.mark.parametrize("case", CASES)
def test_templates(case: str, reader: str, tmp_path: Path, source: Any) -> None:
    row, settings, expected = CASES[case]
    assert read(source(**write([row], reader, tmp_path), **settings)) == [expected]


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_a_row_with_a_null_in_it_is_skipped_and_where_goes_first(reader: str, tmp_path: Path, source: Any) -> None:
    rows = [{**PIQA, "note": "x"}, {**PIQA, "note": None}, {**PIQA, "label": -1, "note": "y", "goal": "hidden"}]
    counts = Counter[str]()
    pool = source(**write(rows, reader, tmp_path), text="{note} {answer}", answer=TWO, where={"goal": "Boil an egg:"})
    assert read(pool, counts) == ["x in water"]
    assert (counts["skipped_empty"], counts["filtered"]) == (1, 1)


DEFECTS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "a hidden label": (
        {**PIQA, "label": -1},
        {"text": "{answer}", "answer": TWO},
        ["a row has no right answer", "sources.code.answer.label", "label = -1 in", "one of 0, 1, for 2 options"],
    ),
    "a label that is none": (
        {**ARC, "answerKey": "D"},
        {"text": "{answer}", "answer": LIST},
        ["a row has no right answer", "answerKey = D", "one of A, B, C, for 3 options"],
    ),
    "a missing column": (
        PIQA,
        {"text": "{goal} {body}"},
        ["a column is missing", "sources.code.text", "got: body, but"],
    ),
    "a missing option": (
        PIQA,
        {"text": "{answer}", "answer": {"options": ["sol1", "sol3"], "label": "label"}},
        ["a column is missing", "sources.code.answer.options", "got: sol3, but"],
    ),
    "a list": (
        ARC,
        {"text": "{choices.text}"},
        ["a column holds no text", "sources.code.text", "choices.text: list in"],
    ),
    "a broken template": (PIQA, {"text": "{goal"}, ["a template cannot be read", "sources.code.text", "got: {goal ("]),
    "a conversion": (PIQA, {"text": "{goal!r}"}, ["a template cannot be read", "sources.code.text", "takes no '!'"]),
    "a layout": (PIQA, {"text": "{goal:>9}"}, ["a template cannot be read", "sources.code.text", "takes no '!'"]),
}


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
@pytest.mark.parametrize("case", DEFECTS)
def test_defects(case: str, reader: str, tmp_path: Path, source: Any) -> None:
    row, settings, messages = DEFECTS[case]
    with pytest.raises(InputError) as caught:
        read(source(**write([row], reader, tmp_path), **settings))
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
@pytest.mark.parametrize("case", ["a missing column", "a missing option", "a broken template"])
def test_defects_are_seen_before_anything_starts(case: str, reader: str, tmp_path: Path, run_config: Any) -> None:
    row, settings, messages = DEFECTS[case]
    files = write([row], reader, tmp_path)
    with pytest.raises(InputError) as caught:
        check_inputs(run_config({"code": {**files, **settings}}, {"goal": {**files, "text": next(iter(row))}}))
    for message in messages:
        assert message in str(caught.value)
