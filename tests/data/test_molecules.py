"""Molecules: fingerprints made once, invalid SMILES left out, parts by molecule, and the columns of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from mixray.config.data import FingerprintConfig, TargetConfig
from mixray.config.schema import RunConfig
from mixray.data import Prepared, check_inputs, look_ahead, molecule_features, prepare
from mixray.data.tabular.assays import with_tables_read
from mixray.data.tabular.molecules import features, fingerprint_table
from mixray.errors import InputError
from mixray.store.artifacts import read_artifact
from mixray.store.tables import read_table
from tests.data.test_example_rows import Run

ALCOHOLS = ["C" * length + "O" for length in range(1, 60)]
AMINES = ["C" * length + "N" for length in range(1, 60)]
SMILES = ALCOHOLS + AMINES


class MoleculeRun(Run):
    """As ``Run``, with boosted trees on molecules."""

    def config(self, sources: dict[str, Any], goal: dict[str, Any], **settings: Any) -> RunConfig:
        model = {"model": {"boosted_trees": {"rounds": 3}}}
        content: dict[str, Any] = {"seed": settings.pop("seed", 0)}
        examples = {"smiles": "smiles", "label": "label", "fingerprint": {"bits": 256}} | settings
        content |= {"sources": sources, "targets": {"goal": goal}, "proxy": model, "retrain": model}
        return RunConfig.model_validate({"name": "test", "examples": examples, **content})

    def pools(self) -> tuple[dict[str, Any], dict[str, Any]]:
        labels = [0] * len(ALCOHOLS) + [1] * len(AMINES)
        sources = {"one": self.write("one", {"smiles": SMILES, "label": labels})}
        return sources, self.write("goal", {"smiles": SMILES, "label": labels})


@pytest.fixture
def run(tmp_path: Path, mapper: Any) -> MoleculeRun:
    return MoleculeRun(tmp_path, mapper)


@pytest.mark.parametrize("counts", [False, True])
def test_fingerprints_are_those_of_rdkit(counts: bool) -> None:
    config = FingerprintConfig(radius=1, bits=128, counts=counts)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=1, fpSize=128)
    texts = ["CCO", "c1ccccc1CCN", "CC(=O)Oc1ccccc1C(=O)O"]
    table = fingerprint_table(texts, config)
    make = generator.GetCountFingerprintAsNumPy if counts else generator.GetFingerprintAsNumPy
    expected = np.array([make(Chem.MolFromSmiles(text)) for text in table["smiles"].to_pylist()])
    assert expected.max() > 1 or not counts
    np.testing.assert_array_equal(features([table], config).toarray(), expected)


def test_a_molecule_is_one_however_it_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    table = fingerprint_table(["OCC", "CCO", "CCO", "not a molecule", ""], FingerprintConfig())
    hashes = dict(zip(table["smiles"].to_pylist(), table["molecule"].to_pylist(), strict=True))
    assert hashes["OCC"] == hashes["CCO"] is not None
    assert [text for text, each in hashes.items() if each is None] == ["", "not a molecule"]
    assert capfd.readouterr().err == ""


def test_rows_hold_the_number_of_their_molecule_and_every_file_is_fingerprinted_once(run: MoleculeRun) -> None:
    sources, goal = run.pools()
    calls: list[int] = []
    run.mapper = counting(run.mapper, calls)
    prepared = run.prepare(sources | {"two": sources["one"]}, goal)
    assert calls == [2]  # the two files, one part each
    stored = run.records(prepared, "one")
    table = fingerprint_table(SMILES, FingerprintConfig(bits=256))
    place = {text: row for row, text in enumerate(table["smiles"].to_pylist())}
    expected = features([table], FingerprintConfig(bits=256)).toarray()[[place[text] for text in SMILES]]
    np.testing.assert_array_equal(stored["features"], expected)
    id = prepared.sources["one"].meta["molecules"]
    assert molecule_features(run.artifacts.storage, id).shape == (len(SMILES), 256)


def counting(mapper: Any, calls: list[int]) -> Any:
    """Return the mapper, which notes how many tasks of fingerprints it runs."""

    def run(function: Any, items: Any, label: str) -> Any:
        if label == "fingerprints":
            calls.append(len(items))
        return mapper(function, items, label)

    return run


def test_rows_of_one_molecule_are_in_one_part_and_the_seed_draws_the_parts(run: MoleculeRun) -> None:
    sources, _ = run.pools()
    twice = {"smiles": SMILES + ["OC" + "C" * length for length in range(59)], "label": [0, 1] * 88 + [0]}
    goal = run.write("goal", twice)
    held_out = []
    for seed in (0, 1):
        prepared = run.prepare(sources, goal, seed=seed)
        parts = {part: molecules(run, prepared, part) for part in ("fit", "held_out")}
        assert sum(map(len, parts.values())) == len(SMILES)
        assert not parts["fit"] & parts["held_out"]
        held_out.append(parts["held_out"])
    assert held_out[0] != held_out[1]


def molecules(run: MoleculeRun, prepared: Prepared, part: str) -> set[str]:
    """Return the molecules of a part of the target, as canonical SMILES."""
    storage = run.artifacts.storage
    artifact = read_artifact(storage, "molecules", prepared.targets["goal"].meta["molecules"])
    files = [read_table(storage, artifact.files[name]) for name in sorted(artifact.files)]
    texts = [text for table in files for text in table["smiles"].to_pylist()]
    return {Chem.CanonSmiles(texts[row["molecule"]]) for row in run.target(prepared, part)}


def test_molecules_that_cannot_be_read_are_left_out_and_counted(run: MoleculeRun) -> None:
    _, goal = run.pools()
    source = run.write("some", {"smiles": ["C1CC", "CCO", "CCN", "oops"], "label": [0, 0, 1, 1]})
    prepared = run.prepare({"some": source}, goal)
    assert len(run.records(prepared, "some")) == 2
    (warning,) = [each for each in prepared.warnings if each["code"] == "invalid_smiles"]
    assert (warning["rows"], warning["pools"]) == (2, ["source some"])
    assert warning["message"] == "source some: 2 of 4 rows: these are not valid SMILES and were left out"


def test_many_pools_of_one_table_have_one_warning_about_its_molecules(run: MoleculeRun) -> None:
    """A table of hundreds of assays is not worth hundreds of lines."""
    _, goal = run.pools()
    bad = run.write("bad", {"smiles": ["C1CC", *SMILES], "label": [0] * 59 + [1] * 60})
    prepared = run.prepare({f"s{place}": bad for place in range(8)}, goal)
    (warning,) = [each for each in prepared.warnings if each["code"] == "invalid_smiles"]
    assert warning["pools"] == [f"source s{place}" for place in range(8)]
    assert warning["rows"] == 8
    assert "source s4: 1 of 119 rows; and so in 3 other pools" in warning["message"]


@pytest.mark.parametrize(
    ("columns", "settings", "what"),
    [
        ({"smiles": ["oops", "no", "C1"], "label": [0, 1, 1]}, {}, "no molecule that can be read"),
        ({"smiles": [1, 2, 3], "label": [0, 1, 1]}, {}, "no molecule that can be read"),
        ({"smiles": ["C", None, "CC"], "label": [0, 1, 1]}, {}, "a value is missing"),
        ({"text": ["C", "CC"], "label": [0, 1]}, {}, "smiles"),
        ({"smiles": ["C", "CC"], "label": [0.5, 1.25]}, {}, "a column does not hold classes"),
        ({"smiles": ["C", "CC"], "label": ["high", "low"]}, {"task": "regression"}, "does not hold numbers"),
    ],
)
def test_molecules_that_are_none_are_refused_before_work_starts(
    columns: dict[str, Any], settings: Mapping[str, str], what: str, run: MoleculeRun
) -> None:
    _, goal = run.pools()
    config = run.config({"bad": run.write("bad", columns)}, goal, **settings)
    assert config.examples is not None
    with pytest.raises(InputError, match=what):
        look_ahead(config, config.examples)
    with pytest.raises(InputError, match=what):
        check_inputs(config)


def test_rdkit_is_named_with_its_extra_where_it_is_missing(run: MoleculeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixray.data.tabular.molecules.find_spec", lambda _: None)
    config = run.config(*run.pools())
    with pytest.raises(InputError, match=r"pip install 'mixray\[chemistry\]'"):
        check_inputs(config)


def test_a_pool_has_labels_of_its_own_and_rows_without_one_are_left_out(run: MoleculeRun) -> None:
    first = [0.0, 1.0, None, float("nan")] * 29 + [0.0, 1.0]
    table = run.write("wide", {"smiles": SMILES, "first": first, "second": [None] * 10 + [1, 0] * 54})
    sources = {name: table | {"label": name} for name in ("first", "second")}
    prepared = run.prepare(sources, table | {"label": "second"}, label=None)
    assert len(run.records(prepared, "first")) == 60
    assert len(run.records(prepared, "second")) == 108
    assert prepared.inputs.label_names == ("0", "1")  # type: ignore[union-attr]
    assert prepared.counts["source first"]["filtered"] == 58


def test_a_changed_fingerprint_is_another_source_and_a_touched_file_is_not(run: MoleculeRun) -> None:
    sources, goal = run.pools()
    before = run.prepare(sources, goal)
    Path(sources["one"]["parquet"]).touch()
    assert run.prepare(sources, goal).sources["one"].id == before.sources["one"].id
    radius = {"fingerprint": {"bits": 256, "radius": 1}}
    after = prepare(run.config(sources, goal, **radius), run.artifacts, run.mapper, lambda _: None)
    assert after.sources["one"].id != before.sources["one"].id


def test_a_target_of_its_own_is_not_replaced_by_one_of_each_source(run: MoleculeRun) -> None:
    sources, goal = run.pools()
    config = run.config({**sources, "two": sources["one"]}, goal)
    each = {"one": config.targets["goal"], "each_source": TargetConfig(held_out=0.3)}
    with pytest.raises(InputError, match="a target has the name of a source"):
        with_tables_read(config.model_copy(update={"targets": each}))


def test_a_source_that_is_kept_from_another_target_is_not_kept_from_its_own_instead(run: MoleculeRun) -> None:
    sources, goal = run.pools()
    config = run.config({**sources, "two": sources["one"]}, goal)
    kept = config.sources["one"].model_copy(update={"without_held_out_of": "goal"})
    targets = {"goal": config.targets["goal"], "each_source": TargetConfig(held_out=0.3)}
    changed = config.model_copy(update={"sources": {**config.sources, "one": kept}, "targets": targets})
    with pytest.raises(InputError, match=r"sources.one.without_held_out_of[\s\S]*got: goal"):
        with_tables_read(changed)
