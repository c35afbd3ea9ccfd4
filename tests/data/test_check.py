"""What is found by looking: one error as itself, several in one, and sizes where all is well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixray.data import check_inputs
from mixray.errors import InputError

WriteJsonl = Callable[..., Path]


def test_sizes(run_config: Any, write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 7)
    (tmp_path / "b.txt").write_bytes(b"\xff" * 4)
    lines = write_jsonl("a.jsonl", ["a", "b"])
    sizes = check_inputs(run_config({"text": {"files": f"{tmp_path}/*.txt"}}, {"goal": {"jsonl": str(lines)}}))
    assert sizes == {"source text": 11, "target goal": lines.stat().st_size}


def test_one_error_is_itself_and_several_come_together(
    run_config: Any, write_jsonl: WriteJsonl, tmp_path: Path
) -> None:
    good = {"jsonl": str(write_jsonl("a.jsonl", ["a"]))}
    wrong = {"files": f"{tmp_path}/nothing/*"}
    with pytest.raises(InputError) as one:
        check_inputs(run_config({"wrong": wrong, "good": good}, {"goal": good}))
    assert str(one.value).startswith("the source wrong has no files\n  where: sources.wrong.files\n")
    with pytest.raises(InputError) as several:
        check_inputs(
            run_config(
                {"wrong": wrong, "good": good},
                {"goal": {**good, "text": "body"}, "package": {"files": "{package:nosuchpackage}/*.py"}},
                tokenizer={"path": str(tmp_path / "nothing")},
            )
        )
    message = str(several.value)
    assert message.startswith("4 inputs are wrong\n\n")
    for part in ("the source wrong has no files", "where: targets.goal.text", "is not installed", "is not a tokenizer"):
        assert part in message
    assert "where: targets.package.files" in message


def test_nothing_but_the_first_line_is_read(run_config: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "fine"}\nbroken\n')
    pool = {"jsonl": f"{tmp_path}/a.jsonl"}
    assert check_inputs(run_config({"code": pool}, {"goal": pool}))["source code"] == 25
    (tmp_path / "a.jsonl").write_bytes(b'\n\xff\n{"body": ""}\n')
    with pytest.raises(InputError, match=r"a column is missing(?s:.*)a\.jsonl, line 3 has the columns body"):
        check_inputs(run_config({"code": pool}, {"goal": {"files": f"{tmp_path}/a.jsonl"}}))
    (tmp_path / "a.jsonl").write_text("\n\nbroken\n")
    with pytest.raises(InputError, match=r"a line is not a JSON object(?s:.*)a\.jsonl, line 3"):
        check_inputs(run_config({"code": pool}, {"goal": {"files": f"{tmp_path}/a.jsonl"}}))
