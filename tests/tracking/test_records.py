import json
import math

import pytest

from mixray.tracking.records import Artifact, Dataset, Finish, Metrics, Point, Record, Start, dump, flatten, load

RECORDS: list[Record] = [
    Start("", {"seed": "0"}, {"folder": "/runs/x"}, time=5),
    Metrics("proxy/python", (Point("loss", 2.5, 4096, 7), Point("loss", math.inf, 8192, 8))),
    Artifact("", "figures/ü.png", bytes(range(256))),
    Dataset("", "python", "ab" * 32, "s3://bucket/x", "training", {"documents": 3}),
    Finish("proxy/python", "FAILED", time=9),
]


def test_records_survive_their_lines_of_json() -> None:
    assert load(dump(RECORDS)) == RECORDS


def test_every_record_is_one_line_of_json() -> None:
    lines = dump(RECORDS).splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["start", "metrics", "artifact", "dataset", "finish"]


def test_nan_survives() -> None:
    (record,) = load(dump([Metrics("", (Point("loss", math.nan, 0, 0),))]))
    assert isinstance(record, Metrics)
    assert math.isnan(record.points[0].value)


@pytest.mark.parametrize("line", [b"{", b'{"kind": "unheard-of"}', b'{"kind": "finish", "keys": ""}', b"{}"])
def test_a_line_that_is_no_record_is_an_error(line: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        load(line)


def test_settings_become_flat_parameters() -> None:
    settings = {
        "seed": 0,
        "proxy": {"tokens": 200_000, "optimizer": {"betas": [0.9, 0.95], "clip": None}},
        "retrain": {"arms": ["mixmin", "natural"], "compile": False},
        "mixture": {"bounds": {}, "groups": []},
        "storage": "./mixray-runs",
    }
    assert flatten(settings) == {
        "seed": "0",
        "proxy.tokens": "200000",
        "proxy.optimizer.betas": "[0.9, 0.95]",
        "retrain.arms": '["mixmin", "natural"]',
        "retrain.compile": "false",
        "storage": "./mixray-runs",
    }
