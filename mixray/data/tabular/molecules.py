"""Molecules: SMILES are parsed by RDKit once for each text, and kept as the bits of their fingerprints.

A molecule is identified by the hash of its canonical SMILES, so that different ways to write it are one molecule.
RDKit is loaded only here, and only where a run has molecules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack

from mixray.config.data import ExamplesConfig, FingerprintConfig
from mixray.data.reading.parts import FilePart, Listing
from mixray.data.tabular.tables import MOLECULE_RECORD, Table, TableColumns, Texts, read_part
from mixray.errors import InputError, StageError
from mixray.store import Artifact, Draft, FileRecord, Step, Storage, encode, fingerprint
from mixray.store.artifacts import read_artifact
from mixray.store.tables import read_table
from mixray.store.target_parts import HASH_BYTES, MOLECULES

SCAFFOLD = "scaffold"
SCHEMA = pa.schema(
    {
        "smiles": pa.string(),
        "molecule": pa.binary(HASH_BYTES),
        "bits": pa.list_(pa.int32()),
        "counts": pa.list_(pa.int32()),
    }
)


def require_rdkit() -> None:
    """Raise InputError unless RDKit is installed."""
    if find_spec("rdkit") is None:
        raise InputError(
            "the library that reads molecules is not installed",
            where="examples.smiles",
            got="no package rdkit",
            wanted="RDKit",
            remedy="pip install 'mixray[chemistry]'",
        )


def fingerprint_table(smiles: Iterable[str], config: FingerprintConfig, *, with_scaffolds: bool = False) -> pa.Table:
    """Return the molecules of some SMILES: one row for each distinct text, in their order as texts.

    Columns: ``smiles``; ``molecule``, the hash of the canonical SMILES, null where RDKit does not read the text;
    ``bits``, the fingerprint's bits that are on, ascending; ``counts``, how often each occurs in the molecule;
    with scaffolds ``scaffold``, the hash of ``scaffold_of``.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=config.radius, fpSize=config.bits)
    texts = sorted(set(smiles))
    hashes: list[bytes | None] = []
    scaffolds: list[bytes | None] = []
    fingerprints: list[dict[int, int]] = []
    with rdBase.BlockLogs():  # the texts that it cannot read are counted instead
        for text in texts:
            molecule = Chem.MolFromSmiles(text)
            if molecule is None or not molecule.GetNumAtoms():
                hashes.append(None)
                scaffolds.append(None)
                fingerprints.append({})
                continue
            hashes.append(_hash(Chem.MolToSmiles(molecule)))
            if with_scaffolds:
                scaffolds.append(_hash(scaffold_of(molecule)))
            counts = generator.GetCountFingerprint(molecule).GetNonzeroElements()
            fingerprints.append(dict(sorted(counts.items())))
    columns = [texts, hashes, [list(each) for each in fingerprints], [list(each.values()) for each in fingerprints]]
    table = pa.table(columns, schema=SCHEMA)
    return table.append_column(SCAFFOLD, pa.array(scaffolds, pa.binary(HASH_BYTES))) if with_scaffolds else table


def scaffold_of(molecule: Any) -> str:
    """Return the SMILES of an RDKit molecule's Bemis-Murcko scaffold: its rings and what links them.

    Of a molecule without rings it is that of the molecule: such molecules are not alike, and a third of a table may be
    of that kind. Bemis and Murcko, J. Med. Chem. 39, 2887 (1996).
    """
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    to_smiles: Any = MurckoScaffold.MurckoScaffoldSmiles  # RDKit has no types
    return str(to_smiles(mol=molecule) or Chem.MolToSmiles(molecule))


def _hash(smiles: str) -> bytes:
    return hashlib.blake2b(smiles.encode(), digest_size=HASH_BYTES).digest()


def features(tables: Sequence[pa.Table], config: FingerprintConfig) -> csr_matrix:
    """Return the fingerprints of all rows of some tables, sparse float32, shape (rows, bits)."""
    blocks = []
    for table in tables:
        bits, counts = (table[name].combine_chunks() for name in ("bits", "counts"))
        numbers = counts.flatten().to_numpy() if config.counts else np.ones(len(bits.flatten()))
        ends = np.append(0, np.cumsum(bits.value_lengths().to_numpy()))
        shape = (len(table), config.bits)
        blocks.append(csr_matrix((numbers.astype(np.float32), bits.flatten().to_numpy(), ends), shape=shape))
    return vstack(blocks, format="csr")


@dataclass(frozen=True)
class FingerprintTask:
    """Fingerprint part ``index`` of a pool's files."""

    part: FilePart
    index: int
    columns: TableColumns
    config: FingerprintConfig
    draft: Draft
    with_scaffolds: bool


@dataclass(frozen=True)
class FingerprintMolecules(Step[FingerprintTask, tuple[FileRecord, int, str]]):
    """The fingerprints of all molecules of a pool's files, which every pool of the same files shares.

    There is a file of ``fingerprint_table`` for each part. A molecule's number is its row among those of all files.
    Meta: ``rows`` of each file, ``content`` (the identity of the rows) and the settings of the fingerprint.
    ``with_scaffolds``: some target is split by them.
    """

    kind = MOLECULES
    listing: Listing
    columns: TableColumns
    config: FingerprintConfig
    with_scaffolds: bool

    @classmethod
    def of(
        cls, listing: Listing, columns: TableColumns, examples: ExamplesConfig, *, with_scaffolds: bool
    ) -> FingerprintMolecules:
        """Return the step of a pool. ``columns``: of all its rows; the molecules' column alone is read, whatever the
        labels."""
        inputs = ExamplesConfig(smiles=examples.smiles)
        alone = replace(columns, inputs=inputs, groups=(), where={}, labelled=False)
        return cls(listing, alone, examples.fingerprint, with_scaffolds)

    @property
    def id(self) -> str:
        settings = [self.columns.smiles, self.columns.kind, self.config.model_dump(mode="json"), version("rdkit")]
        younger = [SCAFFOLD] if self.with_scaffolds else []  # a setting that leaves no trace by default
        return fingerprint([MOLECULES, 1, *settings, self.listing.key, *younger])

    def tasks(self, draft: Draft) -> list[FingerprintTask]:
        parts = [part for part in self.listing.parts if isinstance(part, FilePart)]
        return [
            FingerprintTask(part, index, self.columns, self.config, draft, self.with_scaffolds)
            for index, part in enumerate(parts)
        ]

    @staticmethod
    def run(task: FingerprintTask) -> tuple[FileRecord, int, str]:
        """Write the molecules of a part. Return the file, its rows and their identity."""
        smiles = smiles_of(read_part(task.part, task.columns, None)).tolist()
        table = fingerprint_table(smiles, task.config, with_scaffolds=task.with_scaffolds)
        content = fingerprint(
            [[text, hash and hash.hex()] for text, hash in zip(*_texts_and_hashes(table), strict=True)]
        )
        return task.draft.write(f"{task.index:06d}.parquet", encode(table)), len(table), content

    def publish(self, draft: Draft, results: Sequence[tuple[FileRecord, int, str]]) -> Artifact:
        settings = self.config.model_dump(mode="json")
        files = {f"{index:06d}.parquet": record for index, (record, _, _) in enumerate(results)}
        # Another RDKit may make other bits of the same molecules.
        content = fingerprint([settings, version("rdkit"), [content for _, _, content in results]])
        return draft.publish(
            files, {"rows": [rows for _, rows, _ in results], "content": content, "settings": settings}
        )


def smiles_of(table: Table) -> Texts:
    """Return the molecules of rows as they are written, shape (rows,)."""
    assert table.smiles is not None, "the table has no molecules"
    return table.smiles


def with_molecules(table: Table, storage: Storage, fingerprints: Artifact, index: int) -> Table:
    """Return the rows of part ``index`` with their molecules looked up, without those that cannot be read."""
    stored = read_table(storage, fingerprints.files[f"{index:06d}.parquet"])
    texts, hashes = _texts_and_hashes(stored)
    places = {text: place for place, text in enumerate(texts)}
    rows = np.array([places.get(text, -1) for text in smiles_of(table).tolist()], np.int64)
    if (rows < 0).any():
        raise StageError("a file of molecules changed while it was read", remedy="run again once nothing writes to it")
    is_valid = np.array([hashes[row] is not None for row in rows.tolist()], np.bool_)
    molecules = np.zeros(int(is_valid.sum()), MOLECULE_RECORD)
    molecules["number"] = rows[is_valid] + sum(fingerprints.meta["rows"][:index])
    molecules["id"] = np.array([hashes[row] for row in rows[is_valid].tolist()], f"V{HASH_BYTES}")
    scaffolds = None
    if SCAFFOLD in stored.column_names:
        all_scaffolds = stored[SCAFFOLD].to_pylist()
        scaffolds = np.array([all_scaffolds[row] for row in rows[is_valid].tolist()], f"V{HASH_BYTES}")
    return replace(table.take(is_valid), molecules=molecules, scaffolds=scaffolds, invalid=int((~is_valid).sum()))


def first_molecules(table: Table, config: FingerprintConfig) -> bool:
    """Return whether RDKit reads any of the table's molecules: it stops at the first one."""
    return any(fingerprint_table([text], config)["molecule"].null_count == 0 for text in smiles_of(table).tolist())


def molecule_features(storage: Storage, artifact_id: str) -> csr_matrix:
    """Return the fingerprints of an artifact's molecules by number, sparse float32, shape (molecules, bits)."""
    return _features(storage.uri, artifact_id)


@lru_cache(maxsize=4)
def _features(uri: str, artifact_id: str) -> csr_matrix:
    storage = Storage(uri)
    artifact = read_artifact(storage, MOLECULES, artifact_id)
    tables = [read_table(storage, artifact.files[name]) for name in sorted(artifact.files)]
    return features(tables, FingerprintConfig.model_validate(artifact.meta["settings"]))


def _texts_and_hashes(table: pa.Table) -> tuple[list[str], list[bytes | None]]:
    return table["smiles"].to_pylist(), table["molecule"].to_pylist()
