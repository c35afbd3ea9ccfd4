"""Tables of labelled rows: Parquet and CSV files are read, their columns checked and typed; nothing is encoded yet.

A column has a role: numbers or features, a category, the label, the group, the spurious attribute, the split. ``key``
is the dotted key of the run file that names a column. A column that does not hold what its role needs is an InputError.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from mixray.config.data import ExampleColumns, ExamplesConfig, written
from mixray.data.reading.files import open_file, reading
from mixray.data.reading.locations import SourceFile
from mixray.data.reading.parquet import file_schema, open_parquet, with_partitions
from mixray.data.reading.parts import FilePart, FileSlice
from mixray.data.reading.row_texts import column_at, missing_column, type_at
from mixray.errors import InputError
from mixray.store.target_parts import HASH_BYTES

MISSING = "(missing)"
"""The value of a categorical column in a row that has none."""
LARGEST = 1e100
"""Larger numbers are refused, because the sum of their squares may overflow."""
NAMED = 5
"""At most so many values are named in an error."""
MOLECULE_RECORD = np.dtype([("number", "<i8"), ("id", f"V{HASH_BYTES}")])
"""Of a molecule: its place among those of its files, and the hash of its canonical SMILES."""
OPTIONAL = ("numbers", "smiles", "molecules", "scaffolds")
"""The columns of a table that it may lack."""
JOINER = "|"
"""Between the values of several columns that together are the group."""
Texts = NDArray[np.str_]
Role = Literal["label", "group", "spurious", "split"]
FileKind = Literal["parquet", "csv"]


@dataclass(frozen=True)
class TableColumns:
    """The columns that a run file names, and where it says so.

    ``section``: the section that names the inputs. ``kind``: of the files; ``place``: the dotted key of the section
    that names them. ``where``: column -> the value of the rows to keep. ``labelled``: whether rows without a label are
    left out.
    """

    section: Literal["examples", "data"]
    inputs: ExampleColumns
    kind: FileKind
    place: str
    groups: tuple[str, ...] = ()
    spurious: str | None = None
    split: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    labelled: bool = False

    @property
    def files_key(self) -> str:
        return f"{self.place}.{self.kind}"

    def key(self, role: str) -> str:
        """Return the dotted key of the run file that names the columns of a role."""
        if role == "group" and self.section == "examples":
            return "retrain.objective.groups"
        return f"{self.section}.{role}"

    @property
    def number(self) -> str | None:
        """The column of the numbers to predict; None where classes are predicted."""
        is_regression = isinstance(self.inputs, ExamplesConfig) and self.inputs.task == "regression"
        return self.inputs.label if is_regression else None

    @property
    def smiles(self) -> str | None:
        """The column of molecules; None where inputs are others."""
        return self.inputs.smiles if isinstance(self.inputs, ExamplesConfig) else None

    @property
    def roles(self) -> dict[Role, list[str]]:
        """The columns of every role but the inputs, without roles that have none."""
        columns: dict[Role, Sequence[str | None]] = {
            "group": self.groups,
            "label": [self.inputs.label if self.number is None else None],
            "spurious": [self.spurious],
            "split": [self.split],
        }
        named = {role: [name for name in names if name is not None] for role, names in columns.items()}
        return {role: names for role, names in named.items() if names}

    @property
    def by_key(self) -> dict[str, Sequence[str]]:
        """Dotted key of the run file -> the columns that it names."""
        inputs = {self.key(name): columns for name, columns in self.inputs.inputs.items()}
        if self.number is not None:
            inputs[self.key("label")] = (self.number,)
        return inputs | {self.key(role): names for role, names in self.roles.items()}

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for columns in self.by_key.values() for name in columns))


@dataclass(frozen=True, eq=False)
class Table:
    """Typed rows.

    ``numeric``: float64, shape (rows, columns), all finite. ``categorical``: column -> text, shape (rows,). ``roles``:
    text, shape (rows,), of the label and of the other roles that the run file names. ``filtered``: how many rows
    ``where`` or the lack of a label left out. ``numbers``: float64, shape (rows,), what is to be predicted in place of
    a label. ``smiles``: text, shape (rows,), where the inputs are molecules. ``molecules``: of type MOLECULE_RECORD,
    shape (rows,), once they are looked up; ``invalid``: how many rows were left out then. ``scaffolds``: of type
    V16, shape (rows,), the hash of each molecule's scaffold, or of the molecule where it has none; only where molecules
    are split by them.
    """

    numeric: NDArray[np.float64]
    categorical: dict[str, Texts]
    roles: dict[Role, Texts]
    filtered: int = 0
    numbers: NDArray[np.float64] | None = None
    smiles: Texts | None = None
    molecules: NDArray[np.void] | None = None
    invalid: int = 0
    scaffolds: NDArray[np.void] | None = None

    def __len__(self) -> int:
        return len(self.numeric)

    @property
    def labels(self) -> Texts:
        return self.roles["label"]

    @property
    def groups(self) -> Texts | None:
        return self.roles.get("group")

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """Return all rows of the tables. Raises InputError if features differ in length."""
        filtered = sum(table.filtered for table in tables)
        tables = [table for table in tables if len(table)] or list(tables[:1])
        check_widths(table.numeric.shape[1] for table in tables)
        first = tables[0]
        return cls(
            np.concatenate([table.numeric for table in tables]),
            {name: np.concatenate([table.categorical[name] for table in tables]) for name in first.categorical},
            {role: np.concatenate([table.roles[role] for table in tables]) for role in first.roles},
            filtered,
            None if first.numbers is None else np.concatenate([table.numbers for table in tables]),
            None if first.smiles is None else np.concatenate([table.smiles for table in tables]),
        )

    def take(self, rows: NDArray[Any] | slice) -> Table:
        """Return the rows at these positions."""
        categorical = {name: values[rows] for name, values in self.categorical.items()}
        roles = {role: values[rows] for role, values in self.roles.items()}
        optional = {name: values[rows] for name in OPTIONAL if (values := getattr(self, name)) is not None}
        return replace(self, numeric=self.numeric[rows], categorical=categorical, roles=roles, **optional)


def listed(values: Sequence[str]) -> str:
    """Return the first few values as an error shows them."""
    return ", ".join(map(repr, values[:NAMED])) + (", ..." if len(values) > NAMED else "")


def check_widths(widths: Iterable[int]) -> None:
    """Raise InputError unless the features of all tables have one length."""
    lengths = sorted(set(widths))
    if len(lengths) > 1:
        raise InputError(
            "the features differ in length", where="examples.features", got=f"lengths {lengths[:NAMED]}", wanted="one"
        )


# -------------------------------------------------------------------------------------------------------------- reading


def read_part(part: FilePart, columns: TableColumns, rows: int | None) -> Table:
    """Return at most ``rows`` rows of a part, those that ``where`` keeps.

    Raises InputError naming the column and what is wrong with it, or the file that cannot be read.
    """
    return Table.joined([_read_slice(piece, columns) for piece in part.slices]).take(slice(rows))


def _read_slice(piece: FileSlice, columns: TableColumns) -> Table:
    table = read_file(piece.file, columns, row_groups=(piece.start, piece.stop))
    keep = np.ones(table.num_rows, dtype=np.bool_)
    for path, value in columns.where.items():
        keep &= np.array([written(other) == value for other in table.column(path).to_pylist()], dtype=np.bool_)
    if columns.labelled and columns.inputs.label is not None:
        keep &= ~table.column(columns.inputs.label).is_null(nan_is_null=True).to_numpy()
    try:
        return typed(table if keep.all() else table.filter(pa.array(keep)), columns, filtered=int((~keep).sum()))
    except InputError as error:
        got = f"{error.got}, in {piece.file.location}"
        raise InputError(error.what, where=error.where, got=got, wanted=error.wanted, remedy=error.remedy) from error


# pyarrow.dataset is not used: it gives all files the types of the first one, and its errors do not name the file.
def read_file(file: SourceFile, columns: TableColumns, *, row_groups: tuple[int, int | None] = (0, None)) -> Any:
    """Return the named columns of a file, and those that ``where`` filters by, as an Arrow table.

    ``row_groups``: the first one and the one after the last, for Parquet. Raises InputError for missing columns and for
    files that cannot be read.
    """
    numeric = {*columns.inputs.numeric, columns.number}
    names = list(dict.fromkeys([*columns.names, *columns.where]))
    with reading(file, columns.files_key):
        if columns.kind == "parquet":
            with open_parquet(file) as parquet:
                _check_schema(file_schema(parquet, file), columns, file.location)
                stop = parquet.num_row_groups if row_groups[1] is None else row_groups[1]
                table = parquet.read_row_groups(list(range(row_groups[0], stop)), columns=names)
                table = with_partitions(table, file)
        else:
            # Classes are text, so that 01 and 1 differ.
            kinds = {name: pa.string() for name in names if name not in numeric}
            with open_file(file) as stream:
                table = pyarrow.csv.read_csv(stream, convert_options=pyarrow.csv.ConvertOptions(column_types=kinds))
            _check_schema(table.schema, columns, file.location)
    for path in names:
        if path not in table.schema.names:
            table = table.append_column(path, column_at(table, path))
    table = table.select(names)
    if columns.kind == "csv":
        # An empty class is missing; one that is named NA is not.
        for position, name in enumerate(columns.names):
            if name not in numeric:
                values = table.column(name)
                table = table.set_column(position, name, pc.if_else(pc.equal(values, ""), None, values))
    return table


def _check_schema(schema: Any, columns: TableColumns, place: str) -> None:
    """Raise InputError for a column that is missing or stands twice."""
    counts = Counter(schema.names)
    for key, paths in (columns.by_key | {f"{columns.place}.where": list(columns.where)}).items():
        for path in paths:
            if counts[path if path in counts else path.partition(".")[0]] > 1:
                raise InputError(
                    "a column stands twice", where=key, got=f"{path}, in {place}", wanted="columns of different names"
                )
            if type_at(schema, path) is None:
                raise missing_column(key, path, counts, place)


def typed(table: Any, columns: TableColumns, filtered: int = 0) -> Table:
    """Return an Arrow table's columns in their roles. Raises InputError naming the column and what is wrong with it."""
    inputs, key = columns.inputs, columns.key
    if not table.num_rows:
        # The types of a table without rows say nothing.
        empty = np.empty(0, dtype=np.str_)
        categorical = dict.fromkeys(inputs.categorical, empty)
        predicted = None if columns.number is None else np.empty(0)
        numbers_of_none, smiles = np.empty((0, len(inputs.numeric))), None if columns.smiles is None else empty
        return Table(numbers_of_none, categorical, dict.fromkeys(columns.roles, empty), filtered, predicted, smiles)
    numeric = [numbers(table, name, key("numeric")) for name in inputs.numeric]
    if inputs.features is not None:
        numeric.append(lists(table, inputs.features, key("features")))
    # The group is last, because an error of the label's column is one of the label even if the group is made of it.
    by_role = sorted(columns.roles.items(), key=lambda item: item[0] == "group")
    roles = {role: [texts(table, name, key(role)) for name in names] for role, names in by_role}
    return Table(
        np.column_stack(numeric) if numeric else np.empty((table.num_rows, 0)),
        {name: texts(table, name, key("categorical"), missing=MISSING) for name in inputs.categorical},
        {role: _joined(values) for role, values in roles.items()},
        filtered,
        None if columns.number is None else numbers(table, columns.number, key("label")),
        None if columns.smiles is None else texts(table, columns.smiles, key("smiles")),
    )


# -------------------------------------------------------------------------------------------------------------- columns


def _joined(columns: Sequence[Texts]) -> Texts:
    return columns[0] if len(columns) == 1 else np.array([JOINER.join(row) for row in zip(*columns, strict=True)])


def numbers(table: Any, name: str, key: str) -> NDArray[np.float64]:
    """Return a column of numbers, float64, shape (rows,). Raises InputError for anything else."""
    column = table.column(name)
    kind = column.type
    are_numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (are_numbers or pa.types.is_null(kind)):
        raise InputError(
            "a numeric column does not hold numbers",
            where=f"{key}, column {name}",
            got=f"{kind}, for instance {_first_value(column)!r}",
            wanted="integers, floating-point numbers or booleans",
            remedy="name it under categorical, or mend the column",
        )
    values: NDArray[np.float64] = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    _require_finite(values[:, None], f"{key}, column {name}")
    return values


def lists(table: Any, name: str, key: str) -> NDArray[np.float64]:
    """Return a column of lists of numbers, float64, shape (rows, length). Raises InputError for anything else."""
    column = table.column(name).combine_chunks()
    kind, where = column.type, f"{key}, column {name}"
    are_lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    hold_numbers = are_lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    wanted = "lists of numbers, all of one length"
    if not hold_numbers:
        raise InputError("the features are not lists of numbers", where=where, got=str(kind), wanted=wanted)
    if column.null_count:
        raise InputError("a row has no features", where=where, got=f"{column.null_count} missing", wanted=wanted)
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise InputError(
            "the features differ in length", where=where, got=f"lengths {sorted(lengths)[:5]}", wanted=wanted
        )
    flat = pc.cast(column.flatten(), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    values: NDArray[np.float64] = flat.reshape(len(column), lengths[0])
    _require_finite(values, where)
    return values


def _require_finite(values: NDArray[np.float64], where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            "a number is missing or not finite",
            where=f"{where}, row {bad[0]}",
            got=f"{len(bad)} of {len(values)} rows with null, NaN or infinity",
            wanted="a finite number in every row",
            remedy="fill the gaps or drop the rows before; a categorical column may have gaps",
        )
    large = np.flatnonzero((np.abs(values) > LARGEST).any(axis=1))
    if len(large):
        raise InputError(
            "a number is too large",
            where=f"{where}, row {large[0]}",
            got=f"{len(large)} of {len(values)} rows with more than {LARGEST:g}",
            wanted=f"numbers from {-LARGEST:g} to {LARGEST:g}",
            remedy="drop the rows before, or fill them if the number stands for none",
        )


def texts(table: Any, name: str, key: str, *, missing: str | None = None) -> Texts:
    """Return a column of classes as text, shape (rows,). ``missing`` replaces null; if it is None, null is refused."""
    column = table.column(name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        # What pandas makes of integers, some of which are missing. Fractions are not classes and stay as they are.
        with contextlib.suppress(pa.ArrowInvalid):
            column = column.cast(pa.int64())
            kind = column.type
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
    if not (plain or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise InputError(
            "a column does not hold classes",
            where=f"{key}, column {name}",
            got=f"{kind}, for instance {_first_value(column)!r}",
            wanted="text, integers, whole floating-point numbers or booleans",
            remedy="name it under numeric, or cut it into classes before" if key.endswith("categorical") else None,
        )
    if missing is None and column.null_count:
        raise InputError(
            "a value is missing",
            where=f"{key}, column {name}, row {column.to_pylist().index(None)}",
            got=f"{column.null_count} of {len(column)} rows without one",
            wanted="a value in every row",
            remedy="drop the rows or fill the gaps before",
        )
    return np.array(pc.fill_null(column.cast(pa.large_string()), missing or "").to_pylist(), dtype=np.str_)


def _first_value(column: Any) -> Any:
    return next((value for value in column.to_pylist()[:100] if value is not None), None)
