from __future__ import annotations

import pickle

import pytest

from mixray.errors import CorruptedArtifactError, InputError, MixrayError, StageError

KINDS = [MixrayError, InputError, CorruptedArtifactError, StageError]


def test_an_error_prints_its_parts_one_a_line() -> None:
    error = InputError("the seed is wrong", where="run.yaml, line 3", got=-1, wanted=">= 0", remedy="seed=0")
    assert str(error).splitlines() == [
        "the seed is wrong",
        "  where: run.yaml, line 3",
        "  got: -1",
        "  wanted: >= 0",
        "  remedy: seed=0",
    ]


@pytest.mark.parametrize("got", [0, "", False, 0.0])
def test_what_was_given_is_printed_even_if_it_counts_as_false(got: object) -> None:
    assert str(InputError("x", got=got)) == f"x\n  got: {got}"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIA:hunter2@bucket/x",
        "s3://bucket/x?region=eu&secret_key=hunter2",
        "gs://bucket/x?anything=hunter2",
        "postgresql+psycopg://me:hunter2@db/mlflow?sslmode=require",
    ],
)
def test_no_part_of_an_error_prints_credentials(uri: str) -> None:
    error = InputError(
        f"no {uri}", where=uri, got=OSError(f"'{uri}' ({uri})"), wanted=[uri], remedy=f"leave {uri}, out"
    )
    assert "hunter2" not in str(error)
    assert "AKIA" not in str(error)
    assert "x?region=eu&secret_key=***" in str(error) or "region" not in uri
    assert "mlflow?sslmode=require, out" in str(error) or "sslmode" not in uri


def test_parts_that_are_absent_are_left_out() -> None:
    assert str(StageError("a proxy diverged")) == "a proxy diverged"


@pytest.mark.parametrize("kind", KINDS)
def test_errors_cross_process_borders_whole(kind: type[MixrayError]) -> None:
    error = kind("what", where="here", got=[1, 2], wanted="three", remedy="add one")
    error.args = (f"{error}\nalso: more",)
    error.add_note("seen by worker 3")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__notes__) == (kind, str(error), ["seen by worker 3"])
    assert (copy.what, copy.where, copy.got, copy.wanted, copy.remedy) == ("what", "here", [1, 2], "three", "add one")


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_mixray_error_and_only_input_is_the_users_to_mend(kind: type[MixrayError]) -> None:
    assert issubclass(kind, MixrayError)
    assert issubclass(kind, InputError) == (kind in (InputError, CorruptedArtifactError))
