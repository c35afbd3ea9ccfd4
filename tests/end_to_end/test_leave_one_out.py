"""Every assay of a table in turn the target, from the run file to the report, in this process."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rdkit.Chem.Scaffolds import MurckoScaffold

import mixray
from mixray.config import RunConfig, load_config
from mixray.config.data import FingerprintConfig
from mixray.config.schema import Stage
from mixray.data.tabular.molecules import features, fingerprint_table
from mixray.errors import InputError
from mixray.report import print_report
from mixray.result import Result
from mixray.runs import MixtureRun
from mixray.search import with_files_read
from mixray.store.artifacts import read_artifact
from tests.end_to_end.test_tables import _in_process, in_process  # noqa: F401

GROUPS = ["O", "N", "Cl", "Br", "F", "S"]
SMILES = [f"{'C' * left}C({group}){'C' * right}" for left in range(1, 9) for right in range(8) for group in GROUPS]
TWINS = {"oxygen": "oxygen_2", "nitrogen": "nitrogen_2", "chlorine": "chlorine_2"}
TWIN_OF = TWINS | {twin: name for name, twin in TWINS.items()}
Content = dict[str, Any]
JOBS = Path(__file__).parents[2] / "jobs"


def assays() -> dict[str, list[Any]]:
    """Three rules, whether a molecule has an atom, with two assays each, of which a third is not measured."""
    draws = np.random.default_rng(0)
    table: dict[str, list[Any]] = {"smiles": SMILES, "id": [f"molecule {row}" for row in range(len(SMILES))]}
    for name, atom in zip(TWINS, ("O", "N", "Cl"), strict=True):
        for column in (name, TWINS[name]):
            labels = np.array([f"({atom})" in text for text in SMILES]) ^ (draws.random(len(SMILES)) < 0.05)
            measured = draws.random(len(SMILES)) < 0.67
            table[column] = [int(label) if is_there else None for label, is_there in zip(labels, measured, strict=True)]
    return table


def content_of_run(folder: Path, **changes: Any) -> Content:
    path = folder / "assays.parquet"
    if not path.exists():
        pq.write_table(pa.table(assays()), path)
    model = {"model": {"boosted_trees": {"rounds": 10, "depth": 3}}}
    return {
        "name": "assays",
        "storage": str(folder / "runs-here"),
        "examples": {"smiles": "smiles", "fingerprint": {"bits": 512}},
        "sources": {"from_labels": {"parquet": str(path), "labels": "*", "min_rows": 100, "min_positive": 20}},
        "targets": {"each_source": {"held_out": 0.3}},
        "proxy": model,
        "mixture": {"bootstrap": 20},
        "retrain": {**model, "arms": ["mixmin", "natural"]},
        **changes,
    }


def run(folder: Path, until: Stage = "report", **changes: Any) -> Result:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content_of_run(folder, **changes), sort_keys=False))
    return mixray.run(path, until=until)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A whole run, which trains models for five of the six targets; its storage is ``runs-here`` in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        return run(tmp_path_factory.mktemp("finished"), targets={"each_source": {"held_out": 0.3, "sample": 5}})


def molecules_of(result: Result, key: str, part: str | None = None) -> set[bytes]:
    """Return the molecules of a source's training rows, or of a part of a target, by hash."""
    opened = MixtureRun.open(result.folder)
    (artifact,) = [each for name, each in opened.index.artifacts(*key.split("/")[:1]).items() if name == key]
    storage = opened.storage
    files = [storage.fetch(artifact.files[name]) for name in sorted(artifact.files) if part is None or part in name]
    tables = [np.load(path) if part is None else pq.read_table(path) for path in files]
    numbers = [number for table in tables for number in np.array(table["molecule"]).tolist()]
    stored = read_artifact(storage, "molecules", artifact.meta["molecules"])
    hashes = [
        each
        for path in map(storage.fetch, stored.files.values())
        for each in pq.read_table(path)["molecule"].to_pylist()
    ]
    return {hashes[number] for number in numbers}


def texts_of(result: Result, key: str, part: str = "") -> set[str]:
    """Return the SMILES of the molecules of a source's training rows, or of a part of a target."""
    opened = MixtureRun.open(result.folder)
    artifact = opened.index.artifacts("source", "target")[key]
    stored = read_artifact(opened.storage, "molecules", artifact.meta["molecules"])
    tables = [pq.read_table(opened.storage.fetch(stored.files[name])) for name in sorted(stored.files)]
    texts = [text for table in tables for text in table["smiles"].to_pylist()]
    paths = [opened.storage.fetch(artifact.files[name]) for name in sorted(artifact.files) if part in name]
    rows = [pq.read_table(path) if part else np.load(path) for path in paths]
    return {texts[number] for table in rows for number in np.array(table["molecule"]).tolist()}


def test_every_source_is_a_target_and_its_twin_has_the_largest_share(finished: Result) -> None:
    result = finished
    retrained = [name for name, mixture in result.mixtures.items() if mixture.retrain]
    assert len(retrained) == 5
    assert list(result.mixtures) == ["oxygen", "oxygen_2", "nitrogen", "nitrogen_2", "chlorine", "chlorine_2"]
    for name, mixture in result.mixtures.items():
        assert mixture.sources == [source for source in result.mixtures if source != name]
        assert max(mixture.weights, key=mixture.weights.__getitem__) == TWIN_OF[name], mixture.weights
        assert mixture.budget == sum(size.tokens for size in mixture.sizes.values())
        if name not in retrained:
            continue
        assert set(mixture.retrain) == {"mixmin", "natural"}
        difference = mixture.retrain["natural"].metrics["nll"].difference
        assert difference is not None
        assert difference > 0, name
    artifacts = Path(result.folder).parents[1] / "artifacts"
    kinds = {kind: len(list(artifacts.glob(f"{kind}/*/manifest.json"))) for kind in ("proxy", "molecules", "column")}
    # One prediction of each proxy and of each retrained model, whatever the number of targets.
    assert kinds["proxy"] == 6
    assert kinds["molecules"] == 1
    assert kinds["column"] == 6 + 10
    summary = next((Path(result.folder) / "report").glob("summary*")).read_text()
    assert "gain over natural: median" in summary
    assert "n = 5 targets" in summary
    printed = StringIO()
    print_report(result.tables(), printed)
    # A balanced mixture is one of the five sources that a target does not leave out.
    assert "20.0 %" in printed.getvalue()
    assert "16.7 %" not in printed.getvalue()
    assert "n = 5 targets" in printed.getvalue().splitlines()[-1]


def test_reweighting_by_densities_changes_little_where_molecules_are_measured_at_random(finished: Result) -> None:
    """Every assay measures the others' molecules: a classifier that had seen them would deny their sources."""
    run_file = Path(finished.folder).parents[2] / "run.yaml"
    result = mixray.run(run_file, ["mixture.covariate_shift=reweight", "mixture.bootstrap=0"], until="mixture")
    for name, mixture in result.mixtures.items():
        plain = finished.mixtures[name].weights
        distance = sum(abs(share - plain[source]) for source, share in mixture.weights.items()) / 2
        assert distance < 0.25, (name, distance)
        assert mixture.gap is None


@pytest.mark.parametrize("held_out_of", ["all", "target"])
def test_no_proxy_or_arm_learns_from_what_its_target_holds_out(held_out_of: str, tmp_path: Path) -> None:
    """Under ``target``, other assays' rows of a held-out molecule are trained on, with labels of their own."""
    result = run(tmp_path, "data", targets={"each_source": {"held_out": 0.3, "held_out_of": held_out_of}}, seed=3)
    sources = {name: molecules_of(result, f"source/{name}") for name in TWIN_OF}
    shared = 0
    for name in TWIN_OF:
        held_out, fit = (molecules_of(result, f"target/{name}", part) for part in ("held_out", "fit"))
        assert held_out
        assert sources[name] == fit
        assert not held_out & sources[name]
        shared += sum(len(held_out & rows) for rows in sources.values())
    assert (shared > 0) == (held_out_of == "target")


def scaffolds(texts: set[str]) -> set[str]:
    """Return the scaffolds of molecules, by RDKit; what has no ring has none."""
    return {MurckoScaffold.MurckoScaffoldSmiles(text) for text in texts} - {""}


@pytest.mark.parametrize("held_out_of", ["all", "target"])
@pytest.mark.parametrize("held_out_by", ["molecule", "scaffold"])
def test_scaffolds_are_kept_apart_on_request(held_out_by: str, held_out_of: str, tmp_path: Path) -> None:
    """Eight rings with many tails each, and molecules without rings."""
    rings = ["c1ccccc1", "c1ccncc1", "C1CCCCC1", "C1CCNCC1", "c1ccoc1", "c1ccsc1", "C1CCOC1", "c1ccc2ccccc2c1"]
    smiles = [
        f"{'C' * length}{group}{'C' * more}{ring}"
        for ring in rings
        for length in (1, 2, 3)
        for more in (1, 2)
        for group in ("O", "N", "S")
    ]
    draws = np.random.default_rng(0)
    names = ("first", "second", "third")
    labels = draws.integers(0, 2, (len(names), len(smiles) + len(SMILES)))
    table = {"smiles": smiles + SMILES} | dict(zip(names, labels, strict=True))
    pq.write_table(pa.table(table), tmp_path / "assays.parquet")
    split = {"held_out": 0.3, "held_out_of": held_out_of, "held_out_by": held_out_by}
    result = run(tmp_path, "data", targets={"each_source": split}, seed=5)
    shared = 0
    for name in names:
        parts = {part: texts_of(result, f"target/{name}", part) for part in ("fit", "held_out")}
        held_out = scaffolds(parts["held_out"])
        assert held_out
        # What has no ring is not held out all at once.
        assert all(not set(SMILES).isdisjoint(texts) for texts in parts.values())
        learned = parts["fit"] | texts_of(result, f"source/{name}")
        if held_out_of == "all":
            learned |= {text for other in names for text in texts_of(result, f"source/{other}")}
        shared += len(held_out & scaffolds(learned))
    assert (shared > 0) == (held_out_by == "molecule")


def test_scaffolds_of_what_has_none_are_refused(tmp_path: Path) -> None:
    split = {"each_source": {"held_out": 0.3, "held_out_by": "scaffold"}}
    table = content_of_run(tmp_path)["sources"]
    with pytest.raises(InputError, match=r"targets.each_source.held_out_by[\s\S]*only molecules"):
        run(tmp_path, examples={"numeric": ["number"]}, sources=table, targets=split)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, "left out beside examples.smiles"),
        ({"examples": {"numeric": ["number"]}}, "left out beside targets that leave a source out"),
    ],
)
def test_problems_that_are_solved_in_memory_have_no_shards(
    tmp_path: Path, changes: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(InputError, match=r"mixture\.shards is not valid") as caught:
        run(tmp_path, mixture={"bootstrap": 0, "shards": {"actors": 1}}, **changes)
    assert wanted in str(caught.value)
    assert not (tmp_path / "runs-here").exists()


def test_the_planned_cache_is_what_the_proxies_predict_once_for_all_targets(finished: Result) -> None:
    opened = MixtureRun.open(finished.folder)
    columns = {column.id: column for by_source in opened.load_cache()[1].values() for column in by_source.values()}
    stored = sum(record.bytes for column in columns.values() for record in column.files.values())
    planned = mixray.plan(Path(finished.folder).parents[2] / "run.yaml").cache_bytes
    assert 0.9 * stored < planned <= stored


def test_a_second_run_makes_nothing_and_the_config_names_every_source(finished: Result) -> None:
    folder = Path(finished.folder).parents[2]

    def published() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.glob("runs-here/artifacts/*/*/manifest.json")}

    before = published()
    assert mixray.run(folder / "run.yaml").mixtures == finished.mixtures
    assert published() == before
    stored = yaml.safe_load((Path(finished.folder) / "config.yaml").read_text())
    assert stored["sources"]["oxygen"]["label"] == "oxygen"
    assert stored["targets"]["oxygen"]["leave_out"] == "oxygen"
    assert json.loads((Path(finished.folder) / "mixtures" / "oxygen.json").read_text())["sources"][0] == "oxygen_2"


def test_features_of_plain_tables_are_left_out_by_their_inputs(tmp_path: Path) -> None:
    table = fingerprint_table(SMILES, FingerprintConfig(bits=64))
    place = {text: row for row, text in enumerate(table["smiles"].to_pylist())}
    bits = features([table], FingerprintConfig(bits=64)).toarray()[[place[text] for text in SMILES]]
    names = [f"bit{number}" for number in range(64)]
    columns = dict(zip(names, bits.T, strict=True)) | {name: assays()[name] for name in TWIN_OF}
    pq.write_table(pa.table(columns), tmp_path / "plain.parquet")
    sources = {"all": {"parquet": str(tmp_path / "plain.parquet"), "labels": list(TWIN_OF), "min_rows": 100}}
    result = run(tmp_path, "mixture", examples={"numeric": names}, sources=sources)
    for name, mixture in result.mixtures.items():
        assert max(mixture.weights, key=mixture.weights.__getitem__) == TWIN_OF[name], mixture.weights


@pytest.mark.parametrize(
    ("changes", "what", "where"),
    [
        ({"labels": ["oxygen", "nothing*"]}, "no such column of labels", "sources.from_labels.labels"),
        ({"labels": ["oxygen", "id"]}, "a column of labels does not hold numbers", "sources.from_labels.labels"),
        ({"labels": ["i*"]}, "columns of text alone", "sources.from_labels.labels"),
        ({"min_rows": 10_000}, "no column with enough labels", "sources.from_labels.labels"),
        ({"min_positive": 1000}, "no column with enough labels", "sources.from_labels.labels"),
        ({"labels": ["oxygen"]}, "one of two sources or more", "leave_out"),
    ],
)
def test_labels_that_are_none_are_refused_before_work_starts(
    changes: Content, what: str, where: str, tmp_path: Path
) -> None:
    table = content_of_run(tmp_path)["sources"]["from_labels"]
    with pytest.raises(InputError) as caught:
        run(tmp_path, sources={"from_labels": table | changes})
    assert what in str(caught.value)
    assert where in str(caught.value)
    assert not (tmp_path / "runs-here").exists()


@pytest.mark.parametrize("other", [[True, False], [0, 1, 2]], ids=["truth values", "three classes"])
def test_columns_with_different_classes_are_refused(other: list[Any], tmp_path: Path) -> None:
    """Every model would have the classes of all columns, and no metric of two classes."""
    column = [other[row % len(other)] for row in range(len(SMILES))]
    pq.write_table(pa.table(assays() | {"other": column}), tmp_path / "assays.parquet")
    with pytest.raises(InputError, match=r"different classes[\s\S]*oxygen \(6 such columns\): 0.0, 1.0; other \(1"):
        run(tmp_path)
    assert not (tmp_path / "runs-here").exists()


def test_an_assay_with_one_class_after_the_split_is_refused_before_a_proxy_is_trained(tmp_path: Path) -> None:
    table = assays()
    rare = [0] * len(SMILES)
    rare[5] = 1
    pq.write_table(pa.table(table | {"rare": rare}), tmp_path / "assays.parquet")
    sources = {"from_labels": {"parquet": str(tmp_path / "assays.parquet"), "labels": "*"}}
    with pytest.raises(InputError, match="the target rare has one class alone after the split"):
        run(tmp_path, sources=sources)
    assert not list(tmp_path.glob("runs-here/artifacts/proxy/*/manifest.json"))


def test_the_continents_of_the_run_file_among_the_jobs_leave_one_out(tmp_path: Path) -> None:
    """A regression on a table that a dependency ships, without molecules: ``jobs/gapminder.yaml``."""
    result = mixray.run(
        JOBS / "gapminder.yaml", {"storage": str(tmp_path / "runs-here"), "mixture.bootstrap": 20}, until="retrain"
    )
    assert list(result.mixtures) == ["africa", "americas", "asia", "europe"]
    for name, mixture in result.mixtures.items():
        assert name not in mixture.sources
        assert mixture.loss["mixmin"] <= min(mixture.loss["natural"], mixture.loss["balanced"])
        assert "rmse" in mixture.retrain["natural"].metrics


@pytest.mark.parametrize("name", ["tox21", "toxcast"])
def test_the_run_files_of_assays_read_a_table_by_path(name: str, tmp_path: Path) -> None:
    table = {column: values * 12 for column, values in assays().items()}
    pq.write_table(pa.table(table), tmp_path / "assays.parquet")
    overrides = {"sources.from_labels.parquet": str(tmp_path / "assays.parquet")}
    config = with_files_read(load_config(JOBS / f"{name}.yaml", overrides, kind=RunConfig))
    assert list(config.sources) == list(config.targets)
    assert set(config.sources) == set(TWIN_OF)
