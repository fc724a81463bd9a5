"""Arrays on disk that grow row by row, for what does not fit into memory."""

import contextlib
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy


class GrowingArray(contextlib.AbstractContextManager):
    """A .npy file in the making; whole once the `with` block is left."""

    def __init__(self, path: Path, dtype: np.dtype, row: tuple[int, ...] = ()):
        """Start a file.

        Args:
            dtype: of the values.
            row: shape of a row.
        """
        self.dtype, self.row, self.num_rows = np.dtype(dtype), row, 0
        self._file = path.open("wb")
        self._write_header()
        self._start = self._file.tell()

    def append(self, rows: np.ndarray) -> None:
        """Add rows, `[num_rows, *row]`."""
        assert rows.shape[1:] == self.row
        self._file.write(np.ascontiguousarray(rows, self.dtype).data)
        self.num_rows += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header()
                assert self._file.tell() == self._start  # numpy leaves room for the number of rows to grow

    def _write_header(self) -> None:
        header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.num_rows, *self.row)}
        npy.write_array_header_1_0(self._file, header)
