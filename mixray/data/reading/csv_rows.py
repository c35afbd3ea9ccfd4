"""CSV with a header line, of examples.

Classes are text, so that 01 and 1 differ; one that is empty is missing, one that is named NA is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mixray.data.reading.locations import SourceFile
from mixray.data.reading.streams import opened


def read_csv(file: SourceFile, classes: Iterable[str]) -> Any:
    """All columns; ``classes``: those that are text whatever they look like. Raises what pyarrow raises."""
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(classes, pa.string()))
    with opened(file) as stream:
        return pyarrow.csv.read_csv(stream, convert_options=options)


def with_gaps(table: Any, classes: Iterable[str]) -> Any:
    """The table with null for every class that is empty."""
    for name in classes:
        place, values = table.schema.get_field_index(name), table.column(name)
        table = table.set_column(place, name, pc.if_else(pc.equal(values, ""), None, values))
    return table
