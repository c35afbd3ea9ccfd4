"""Swarms of others: joined by the run's id, in the columns of Olmix, RegMix and Marin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from mixray.errors import InputError
from mixray.export import Swarm, read_swarm, store_swarm
from mixray.store import Storage
from mixray.store.artifacts import read_artifact

REGMIX = Path(__file__).parents[3] / "shared" / "data" / "regmix"
RATIOS = "run,name,index,web,code\nr1,one,0,0.25,0.75\nr2,two,1,0.5,0.5\nr3,three,2,1,0\n"
METRICS = "run,name,index,bpb/x,loss\nr3,three,0,3,0.3\nr1,one,1,1,0.1\nr2,two,2,2,0.2\n"


def read(folder: Path, ratios: str, metrics: str) -> tuple[Swarm, list[str]]:
    (folder / "ratios.csv").write_text(ratios)
    (folder / "metrics.csv").write_text(metrics)
    return read_swarm(str(folder / "ratios.csv"), str(folder / "metrics.csv"))


def test_rows_are_joined_by_the_run_and_not_by_their_order(tmp_path: Path) -> None:
    """The column ``index`` of these tables numbers the rows of each; only ``run`` is an id."""
    swarm, warnings = read(tmp_path, RATIOS, METRICS)
    assert (swarm.runs, swarm.sources, swarm.metrics) == (["r1", "r2", "r3"], ["web", "code"], ["bpb/x", "loss"])
    np.testing.assert_array_equal(swarm.shares, [[0.25, 0.75], [0.5, 0.5], [1, 0]])
    np.testing.assert_array_equal(swarm.values, [[1, 0.1], [2, 0.2], [3, 0.3]])
    assert warnings == []


def test_marins_table_holds_mixtures_and_metrics(tmp_path: Path) -> None:
    table = "run_id,run_name,status,phase_0_cc/art_high,phase_0_code,eval/bpb,empty\n7,a,completed,0.2,0.8,1.5,\n"
    swarm, warnings = read(tmp_path, table, table)
    assert (swarm.runs, swarm.sources, swarm.metrics) == (["7"], ["cc/art_high", "code"], ["eval/bpb"])
    assert warnings == ["1 metrics are left out, which some runs have no value of: empty"]


def test_a_metric_may_have_the_name_of_a_source(tmp_path: Path) -> None:
    swarm, _ = read(tmp_path, RATIOS, METRICS.replace("loss", "code"))
    assert swarm.metrics == ["bpb/x", "code"]


@pytest.mark.parametrize(("share", "warned"), [("0.749", False), ("0.70", True)])
def test_rows_are_renormalised_and_large_errors_warned_of(share: str, warned: bool, tmp_path: Path) -> None:
    swarm, warnings = read(tmp_path, RATIOS.replace("0.75", share), METRICS)
    np.testing.assert_allclose(swarm.shares.sum(axis=1), 1, rtol=1e-15)
    assert swarm.shares[0, 0] == pytest.approx(0.25 / (0.25 + float(share)))
    assert ["1 of 3 mixtures do not sum to 1" in line and "0.95" in line for line in warnings] == [True] * warned


WRONG: dict[str, tuple[str, str, str]] = {
    "other runs": (RATIOS, METRICS.replace("r3", "r4").replace("r2", "r5"), "2 of 3 runs have no metrics, 2 of 3 have"),
    "fewer runs": (RATIOS, METRICS.rpartition("r2")[0], "1 of 3 runs have no metrics, 0 of 2 have no ratios"),
    "a run twice": (RATIOS, METRICS.replace("r3", "r2"), r"more than once[\s\S]*r2 \(3 rows, 2 ids\)"),
    "no number": (RATIOS, METRICS.replace("0.3", "good"), r"metrics.csv: loss, line 2[\s\S]*good"),
    "NaN": (RATIOS, METRICS.replace("0.3", "nan"), "metrics.csv: loss, line 2"),
    "negative share": (RATIOS.replace("0.25", "-0.25"), METRICS, "web, line 2"),
    "no share": (RATIOS.replace("r3,three,2,1,0", "r3,three,2,0,0"), METRICS, "no share above 0"),
    "no id": (RATIOS.replace("run,name,index", "a,b,c"), METRICS, "no id in common"),
    "ragged": (RATIOS + "r4,four\n", METRICS, "row 5 has 2 cells"),
    "empty": ("", METRICS, "not a valid table of runs"),
    "no metric": (RATIOS, "run\nr1\nr2\nr3\n", "no metric that every run has"),
    "two phases": ("run,phase_0_a,phase_1_a\nr1,1,1\nr2,1,1\nr3,1,1\n", METRICS, "2 phases"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_are_refused(name: str, tmp_path: Path) -> None:
    ratios, metrics, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        read(tmp_path, ratios, metrics)


def test_a_swarm_is_stored_once_under_the_id_of_its_content(tmp_path: Path) -> None:
    swarm, _ = read(tmp_path, RATIOS, METRICS)
    same, _ = read(tmp_path, RATIOS, METRICS)
    other, _ = read(tmp_path, RATIOS, METRICS.replace("0.3", "0.31"))
    assert swarm.id == same.id != other.id
    storage = Storage(str(tmp_path / "runs"))
    for name in ("first", "second"):
        location = store_swarm(storage, name, swarm)
    with pytest.raises(InputError, match="not a valid name of a swarm"):
        store_swarm(storage, "../third", swarm)
    content = json.loads(Path(location).read_text())
    assert (content["id"], content["sources"]) == (swarm.id, ["web", "code"])
    assert storage.list("artifacts/swarm") == [swarm.id]
    record = read_artifact(storage, "swarm", swarm.id).files["swarm.parquet"]
    table = parquet.read_table(storage.fetch(record))
    assert table.column_names == ["run", "share/web", "share/code", "metric/bpb/x", "metric/loss"]
    assert table["metric/loss"].to_pylist() == [0.1, 0.2, 0.3]


@pytest.mark.skipif(not REGMIX.exists(), reason="RegMix's published tables are not here")
@pytest.mark.parametrize(
    ("size", "runs"), [("train_{}_1m", 512), ("test_{}_1m", 256), ("test_{}_60m", 256), ("test_{}_1B", 64)]
)
def test_regmix_published_tables_are_read(size: str, runs: int) -> None:
    tables = [str(REGMIX / f"{size.format(kind)}.csv") for kind in ("mixture", "pile_loss")]
    swarm, warnings = read_swarm(*tables)
    assert (len(swarm.runs), len(swarm.sources), len(swarm.metrics)) == (runs, 17, 13)
    assert warnings == []  # their rows are off by rounding, 0.4 % at most
    np.testing.assert_allclose(swarm.shares.sum(axis=1), 1, rtol=1e-14)
    assert np.isfinite(swarm.values).all()
