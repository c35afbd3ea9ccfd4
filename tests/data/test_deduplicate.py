"""Duplicates, documents that stand in a target, and the digest that is a pool's identity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixray.data.pools import Pool
from mixray.data.reading import parts as parts_module
from mixray.data.reading.parts import list_pool
from mixray.data.text import repeats
from mixray.data.text.deduplicate import Deduplicate, overlaps, read_selected, selected_part
from mixray.data.text.repeats import first_occurrences
from mixray.data.text.scan import Scan
from mixray.errors import InputError, StageError
from mixray.store import Artifact, Artifacts, Step, Storage

WriteJsonl = Callable[..., Path]


def made(step: Step[Any, Any], artifacts: Artifacts) -> Artifact:
    draft = artifacts.draft(step.kind, step.id)
    return step.publish(draft, [step.run(task) for task in step.tasks(draft)])


def scanned(pool: Pool, artifacts: Artifacts) -> Artifact:
    return made(Scan(list_pool(pool)), artifacts)


def selected(pool: Pool, artifacts: Artifacts, *targets: Artifact) -> Artifact:
    return made(deduplicating(pool, artifacts, *targets), artifacts)


def deduplicating(pool: Pool, artifacts: Artifacts, *targets: Artifact) -> Deduplicate:
    return Deduplicate(pool, scanned(pool, artifacts), targets, lambda function, items, _: map(function, items))


def kept(pool: Pool, artifacts: Artifacts, selection: Artifact) -> list[str]:
    parts = enumerate(list_pool(pool).parts)
    return [
        document.text
        for index, part in parts
        for document in read_selected(pool, part, artifacts.storage, selected_part(selection, index))
    ]


@given(st.lists(st.binary(min_size=2, max_size=2), max_size=40))
def test_first_occurrences(values: list[bytes]) -> None:
    expected = [value not in values[:position] for position, value in enumerate(values)]
    assert first_occurrences(pa.array(values, pa.binary(2))).tolist() == expected


def test_the_first_of_equal_documents_stays_across_parts(
    artifacts: Artifacts, source: Any, write_jsonl: WriteJsonl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "PART_BYTES", 30)
    pool = source(jsonl=str(write_jsonl("a.jsonl", ["a", "b", "a", "c", "b", "d", "a"])))
    assert len(list_pool(pool).parts) > 2
    selection = selected(pool, artifacts)
    assert kept(pool, artifacts, selection) == ["a", "b", "c", "d"]
    meta = selection.meta
    assert (meta["documents"], meta["bytes"], meta["duplicates"], meta["in_target"]) == (4, 4, 3, 0)


def test_documents_of_a_target_are_dropped_from_the_source(
    artifacts: Artifacts, source: Any, target: Any, write_jsonl: WriteJsonl
) -> None:
    pool = source(jsonl=str(write_jsonl("a.jsonl", ["a", "b", "a", "c", "é"])))
    targets = [scanned(target(jsonl=str(write_jsonl(f"{name}.jsonl", name))), artifacts) for name in ("ax", "éy")]
    selection = selected(pool, artifacts, *targets)
    assert kept(pool, artifacts, selection) == ["b", "c"]
    assert (selection.meta["duplicates"], selection.meta["in_target"]) == (1, 2)


@pytest.mark.parametrize("reader", ["files", "jsonl"])
@pytest.mark.parametrize(("source_chars", "target_chars"), [(100_000, 60), (60, 100_000), (60, 45), (60, 60)])
def test_a_text_of_a_target_is_recognised_however_it_is_cut(
    source_chars: int,
    target_chars: int,
    reader: str,
    artifacts: Artifacts,
    source: Any,
    target: Any,
    write_jsonl: WriteJsonl,
    tmp_path: Path,
) -> None:
    """Six of its seven texts stand in the target; the seventh shares a beginning with one."""
    texts = ["".join(f"text {number}, line {line}\n" for line in range(12)) for number in range(6)]
    other = "".join(f"but another end {line}\n" for line in range(9))
    pools = {"source": [*texts, texts[0][:80] + other], "target": texts}
    for name, contents in pools.items():
        write_jsonl(f"{name}.jsonl", contents)
        for number, text in enumerate(contents):
            (tmp_path / f"{name}-{number}.txt").write_text(text)
    ending = "-*.txt" if reader == "files" else ".jsonl"
    pool = source(**{reader: f"{tmp_path}/source{ending}"}, document_chars=source_chars)
    goal = scanned(target(**{reader: f"{tmp_path}/target{ending}"}, document_chars=target_chars), artifacts)
    selection = selected(pool, artifacts, goal)
    left = "".join(kept(pool, artifacts, selection))
    assert "line 9" not in left
    assert left.endswith(other)
    if source_chars == target_chars:
        assert "text 0, line 0" not in left  # a piece that stands in the target is still left out by itself


@pytest.mark.parametrize("documents", [1, 7, 60])
@pytest.mark.parametrize("sample", [None, 40])
def test_a_pool_is_compared_in_batches_as_it_is_at_once(
    documents: int,
    sample: int | None,
    artifacts: Artifacts,
    source: Any,
    target: Any,
    write_jsonl: WriteJsonl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most so many documents a batch, against all of them in one: the same files, byte by byte, and the same meta.

    The pool has repeated texts, pieces of repeated lines, and texts of a target that is sampled or not.
    """
    monkeypatch.setattr(parts_module, "PART_BYTES", 300)
    draw = np.random.default_rng(0)
    lines = [f"line number {number}\n" for number in range(30)]
    texts = ["".join(draw.choice(lines, draw.integers(1, 5))) for _ in range(200)]
    pool = source(jsonl=str(write_jsonl("a.jsonl", texts)), document_chars=40)
    goal = scanned(
        target(jsonl=str(write_jsonl("t.jsonl", texts[:60:2])), document_chars=60, max_tokens=sample), artifacts
    )
    goal_pool = target(jsonl=str(write_jsonl("b.jsonl", texts)), document_chars=40, max_tokens=sample)
    for each, targets in ((pool, [goal]), (goal_pool, [])):
        whole = selected(each, artifacts, *targets)
        assert whole.meta["duplicates"] > 20
        monkeypatch.setattr(repeats, "BATCH_DOCUMENTS", documents)
        in_batches = selected(each, Artifacts(artifacts.storage, "batches"), *targets)
        monkeypatch.undo()
        monkeypatch.setattr(parts_module, "PART_BYTES", 300)
        assert in_batches.meta == whole.meta
        digests = [{name: record.sha256 for name, record in made.files.items()} for made in (in_batches, whole)]
        assert digests[0] == digests[1]
        folder = Path(artifacts.storage.full(in_batches.files["000000.parquet"].path)).parent
        assert {path.name for path in folder.iterdir()} == set(in_batches.files)


def test_the_digest_is_that_of_the_kept_text(
    artifacts: Artifacts, source: Any, target: Any, write_jsonl: WriteJsonl
) -> None:
    one = source(jsonl=str(write_jsonl("a.jsonl", ["a", "b", "c"])))
    digest = selected(one, artifacts).meta["digest"]
    apart = [scanned(target(jsonl=str(write_jsonl("t.jsonl", texts))), artifacts) for texts in (["x"], ["x", "y"])]
    for other in (
        selected(
            source(name="other", jsonl=str(write_jsonl("elsewhere/b.jsonl", ["a", "b", "a", "", "c"]))), artifacts
        ),
        selected(one, artifacts, apart[0]),
        selected(one, artifacts, *apart),
    ):
        assert other.meta["digest"] == digest
    for texts in (["a", "b"], ["a", "c", "b"], ["a", "b", "C"], ["a", "b", "c", "d"]):
        changed = source(jsonl=str(write_jsonl("c.jsonl", texts)))
        assert selected(changed, artifacts).meta["digest"] != digest


def test_the_digest_knows_where_parts_end(
    artifacts: Artifacts, source: Any, write_jsonl: WriteJsonl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The tail of a part is dropped, so the same documents in other parts are other tokens."""
    pool = source(jsonl=str(write_jsonl("a.jsonl", "abcdefgh")))
    whole = selected(pool, artifacts).meta["digest"]
    monkeypatch.setattr(parts_module, "PART_BYTES", 40)
    assert selected(pool, Artifacts(Storage(str(tmp_path / "second")), "second")).meta["digest"] != whole


def test_golden_digest(artifacts: Artifacts, source: Any, write_jsonl: WriteJsonl) -> None:
    """sha256 of: 2 as 8 bytes, blake2b-16 of "a", blake2b-16 of "b"; computed apart with hashlib."""
    selection = selected(source(jsonl=str(write_jsonl("a.jsonl", ["a", "b"]))), artifacts)
    assert selection.meta["digest"] == "a7a1a3141e28e7467536f6c386c8b0e7c1842191f4e173d05d9f35a79e80a1ea"


@pytest.mark.parametrize(
    ("texts", "in_target", "got"),
    [
        ([], [], "0 documents read; nothing was left out"),
        (["", " "], [], "0 documents read; 2 skipped_empty"),
        (["a", "b", "a"], ["a", "b"], "3 documents read; 1 duplicates, 2 in_target"),
    ],
)
def test_a_source_with_nothing_left(
    texts: list[str],
    in_target: list[str],
    got: str,
    artifacts: Artifacts,
    source: Any,
    target: Any,
    write_jsonl: WriteJsonl,
) -> None:
    pool = source(jsonl=str(write_jsonl("a.jsonl", texts)))
    goal = scanned(target(jsonl=str(write_jsonl("t.jsonl", in_target))), artifacts)
    with pytest.raises(InputError) as caught:
        deduplicating(pool, artifacts, goal).check(selected(pool, artifacts, goal))
    assert "the source code has no documents left" in str(caught.value)
    assert f"got: {got}" in str(caught.value)


@pytest.mark.parametrize("change", [["a", "X", "c"], ["a", "b"], ["a", "b", "c", "d"], ["", "a", "b", "C"]])
def test_files_that_change_after_the_scan_are_noticed(
    change: list[str], artifacts: Artifacts, source: Any, write_jsonl: WriteJsonl
) -> None:
    pool = source(jsonl=str(write_jsonl("a.jsonl", ["a", "b", "c"])))
    selection = selected(pool, artifacts)
    write_jsonl("a.jsonl", change)
    with pytest.raises(StageError, match="the source code has changed since it was scanned"):
        kept(pool, artifacts, selection)


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [(range(100), range(50, 150), 0.5), (range(100), range(40), 1.0), (range(5), range(5, 9), 0.0)],
)
def test_the_overlap_of_small_pools_is_exact(
    first: range, second: range, share: float, artifacts: Artifacts, source: Any, write_jsonl: WriteJsonl
) -> None:
    pools = [source(jsonl=str(write_jsonl(f"{n}.jsonl", map(str, each)))) for n, each in enumerate((first, second))]
    selections = {str(number): selected(pool, artifacts) for number, pool in enumerate(pools)}
    assert list(overlaps(selections, 0.0)) == [("0", "1", share)]


@pytest.mark.parametrize(("shared", "only"), [(0, 20_000), (4000, 16_000), (18_000, 2000)])
def test_the_overlap_of_large_pools_is_close(shared: int, only: int) -> None:
    """The sketch holds 512 hashes, so three standard errors of a share are at most 3 / (2 sqrt(512)) = 0.067."""
    words = np.random.default_rng(0).integers(0, 2**64, shared + 2 * only, dtype=np.uint64)
    pools = [words[: shared + only], np.concatenate([words[:shared], words[shared + only :]])]
    selections = {
        str(number): Artifact("selection", "", {}, {"sketch": np.sort(pool)[:512].tolist()})
        for number, pool in enumerate(pools)
    }
    ((_, _, share),) = overlaps(selections, 0.0)
    assert abs(share - shared / (shared + only)) < 0.067
