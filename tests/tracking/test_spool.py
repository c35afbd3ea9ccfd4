import pytest

from mixray.store import Storage
from mixray.tracking.records import Finish
from mixray.tracking.spool import Spool

FOLDER = "runs/quickstart-1a2b3c4d"


def test_segments_come_back_in_the_order_of_writing(storage: Storage) -> None:
    spool = Spool(storage, FOLDER)
    batches = [[Finish(f"proxy/{number}")] for number in range(12)]
    names = [spool.write(batch) for batch in batches]
    assert spool.segments() == names
    assert [spool.read(name) for name in names] == batches


def test_numbering_goes_on_where_another_process_stopped(storage: Storage) -> None:
    first, second = Spool(storage, FOLDER), Spool(storage, FOLDER)
    names = [first.write([Finish("a")]), second.write([Finish("b")]), first.write([Finish("c")])]
    assert [name.partition("-")[0] for name in names] == ["00000001", "00000002", "00000003"]
    first.delete(names[0])
    assert second.segments() == names[1:]


def test_other_files_are_no_segments(storage: Storage) -> None:
    storage.write(f"{FOLDER}/tracking/README", b"")
    assert Spool(storage, FOLDER).segments() == []


def test_a_segment_that_holds_no_records_is_an_error(storage: Storage) -> None:
    storage.write(f"{FOLDER}/tracking/00000001-aa.jsonl", b'{"kind": "unheard-of"}\n')
    with pytest.raises(ValueError, match="not a record of mixray"):
        Spool(storage, FOLDER).read("00000001-aa.jsonl")
