"""A scratch file for the rows of a shard that do not fit the memory allowed.

The file has no name and ends with its process however that ends. It is read record by record, each for as long as it is
worked on: the process never holds more of it, and the system keeps in memory what there is room for.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mixray.errors import StageError

PAGE_BYTES = 4096

Arrays = dict[str, NDArray[Any]]
"""Arrays of as many rows each, by name: one record of the file."""


class ScratchFile:
    """Records of named arrays, each written column by column from the start of a page.

    ``records``: all have the names, dtypes and columns of the first, and no more rows. ``folder``: where temporary
    files go by default. Raises StageError where the file cannot be written or read.
    """

    def __init__(self, records: Iterable[Arrays], count: int, folder: str | None) -> None:
        self._folder, self._rows = folder, [0] * count
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix="mixray-shard-")  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from error
        weakref.finalize(self, self._file.close)
        for number, arrays in enumerate(records):
            if number == 0:
                self._columns = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
                self._row_bytes = sum(array[0].nbytes for array in arrays.values())
                first_bytes = sum(array.nbytes for array in arrays.values())
                self._record_bytes = -(-first_bytes // PAGE_BYTES) * PAGE_BYTES
            self._rows[number] = len(next(iter(arrays.values())))
            try:
                self._file.seek(number * self._record_bytes)
                for array in arrays.values():
                    self._file.write(array.ravel(order="K").data)
                self._file.flush()
            except OSError as error:
                raise self._unwritable(error) from error

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> Arrays:
        """Return one record. It is read, not mapped: a disk that fails is an error then, and not the process's end."""
        rows = self._rows[number]
        record = np.empty(rows * self._row_bytes, np.uint8)
        count = os.preadv(self._file.fileno(), [record.data], number * self._record_bytes)
        if count != record.nbytes:
            raise StageError("a shard's scratch file is shorter than what was written", got=count, wanted=record.nbytes)
        arrays: Arrays = {}
        offset = 0
        for name, (dtype, shape) in self._columns.items():
            values = np.frombuffer(record, dtype, rows * int(np.prod(shape)), offset)
            arrays[name], offset = values.reshape(rows, *shape, order="F"), offset + values.nbytes
        return arrays

    def _unwritable(self, error: OSError) -> StageError:
        return StageError(
            "a shard's rows cannot be written to scratch space",
            where=self._folder or tempfile.gettempdir(),
            got=str(error),
            wanted="a local folder with room for the rows: 4 bytes per source and 16 more, each",
            remedy="name another folder, or allow more memory per shard",
        )
