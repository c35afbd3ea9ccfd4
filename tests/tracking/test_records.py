from mixray.tracking.records import Point, TrackedRun, flatten, merge


def test_records_of_one_run_become_one_record() -> None:
    first, second = Point("loss", 2.0, 64), Point("loss", 1.0, 128)
    runs = [
        TrackedRun("", {"seed": "0"}, files={"a": b"1", "b": b"2"}),
        TrackedRun("proxy/python", points=(first,), started=5),
        TrackedRun("", {"window": "8"}, files={"a": b"3"}, status="FINISHED", ended=9),
        TrackedRun("proxy/python", points=(second,)),
    ]
    assert merge(runs) == [
        TrackedRun("", {"seed": "0", "window": "8"}, files={"a": b"3", "b": b"2"}, status="FINISHED", ended=9),
        TrackedRun("proxy/python", points=(first, second), started=5),
    ]


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
