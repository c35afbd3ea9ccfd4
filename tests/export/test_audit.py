"""Audits: what a log, a data set or a trained arm says it read, beside the mixture."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mixray.errors import InputError
from mixray.export import audit_arm, audit_log, misplaced_share
from mixray.mixture import Mixture, SourceSize
from mixray.store import ModelMeta, SourceLoss

SIZES = {"a": {"documents": 10, "tokens": 1_000}, "b": {"documents": 100, "tokens": 2_000}}
MIXTURE = Mixture.from_weights({"a": 0.75, "b": 0.25}, SIZES)


def test_a_log_is_summed_by_source(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,source,tokens\n1,a,300\n1,b,100\n2,a,300\n2,b,300\n")
    a, b = audit_log(MIXTURE, str(path))
    assert (a.requested, a.realised, a.tokens, a.documents, a.epochs) == (0.75, 0.6, 600, 6.0, 0.6)
    assert (b.requested, b.realised, b.tokens, b.documents, b.epochs) == (0.25, 0.4, 400, 20.0, 0.2)
    assert misplaced_share([a, b]) == pytest.approx(0.15)


def test_a_log_may_count_documents_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("source,tokens,documents\na,300,2\na,300,2\n")
    a, b = audit_log(MIXTURE, str(path))
    assert (a.documents, a.realised, b.documents, b.realised, b.tokens) == (4, 1.0, 0, 0.0, 0)


def test_names_that_look_like_numbers_and_empty_cells_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("source,tokens\n1,300\n1,\n2,100\n")
    one, two = audit_log(Mixture.from_weights({"1": 0.5, "2": 0.5}), str(path))
    assert (one.realised, two.realised, one.documents) == (0.75, 0.25, None)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_data_set_has_a_document_a_row(kind: str, tmp_path: Path) -> None:
    rows = [
        {"source": "a", "input_ids": [1, 2, 3]},
        {"source": "b", "input_ids": [4]},
        {"source": "a", "input_ids": []},
    ]
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    a, b = audit_log(MIXTURE, str(path))
    assert (a.tokens, a.documents, a.realised, b.tokens, b.documents) == (3, 2, 0.75, 1, 1)
    assert misplaced_share([a, b]) == 0


def test_an_arm_is_audited_from_what_it_recorded() -> None:
    losses = {"a": SourceLoss(0.7, 64, 3.5, 0.1), "b": SourceLoss(0.3, 1, None, None)}
    shares = {"a": 0.75, "b": 0.25}
    model = ModelMeta(parameters=1, tokens=1_000, seconds=1.0, curve=[], source_shares=shares, source_losses=losses)
    sizes = {name: SourceSize.model_validate(size) for name, size in SIZES.items()}
    a, b = audit_arm(model, sizes) or []
    assert (a.requested, a.realised, a.tokens, a.documents, a.epochs, a.loss) == (0.75, 0.7, 700, 7.0, 0.7, 3.5)
    assert (b.realised, b.loss) == (0.3, None)
    (bare, _) = audit_arm(model, {}) or []
    assert (bare.documents, bare.epochs) == (None, None)
    assert audit_arm(ModelMeta(parameters=1, tokens=1, seconds=1.0, curve=[]), sizes) is None


WRONG: dict[str, tuple[str, str]] = {
    "another source": ("source,tokens\nc,1\n", r"does not have[\s\S]*got: c"),
    "no source": ("name,tokens\na,1\n", r"which source[\s\S]*name, tokens"),
    "no tokens": ("source,words\na,1\n", r"which source[\s\S]*source, words"),
    "text": ("source,tokens\na,many\n", r"tokens[\s\S]*got: string"),
    "text for documents": ("source,tokens,documents\na,1,many\n", r"documents[\s\S]*got: string"),
    "nothing": ("source,tokens\na,0\n", "has no tokens"),
    "empty": ("", "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_logs_are_refused(name: str, tmp_path: Path) -> None:
    text, message = WRONG[name]
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        audit_log(MIXTURE, str(path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "a", "input_ids": "1 2 3"}, r"input_ids[\s\S]*got: string[\s\S]*wanted: lists of token ids"),
        ({"source": 1, "tokens": 3}, r"source[\s\S]*got: int64[\s\S]*wanted: the names of sources"),
        ({"source": "a", "tokens": "3"}, r"tokens[\s\S]*got: string[\s\S]*wanted: numbers"),
    ],
)
def test_a_data_set_with_columns_of_other_types_is_refused(
    row: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=message):
        audit_log(MIXTURE, str(path))


def test_rows_of_long_documents_are_read(tmp_path: Path) -> None:
    rows = [{"source": name, "input_ids": [12345] * 400_000} for name in ("a", "a", "a", "b")]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    a, b = audit_log(MIXTURE, str(path))
    assert (a.tokens, b.tokens) == (1_200_000, 400_000)
