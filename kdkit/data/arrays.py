"""Arrays on disk that grow row by row, for what does not fit into memory."""

import contextlib
from collections.abc import Sequence
from contextlib import ExitStack
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


class ArrayFolder:
    """A folder with a .npy file per array, all of which grow along their first axis together."""

    def __init__(self, folder: Path, lists: Sequence[str], padding: int):
        """Make the folder.

        Args:
            lists: names of arrays whose second axis is as long as the longest list of any part; kept in memory.
            padding: what fills up shorter ones.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lists, self.padding = folder, lists, padding
        self._files: dict[str, GrowingArray] = {}
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in lists}
        self._stack = ExitStack()

    def append(self, arrays: dict[str, np.ndarray]) -> None:
        """Add a part of every array."""
        for name, array in arrays.items():
            if name in self.lists:
                self._parts[name].append(array)
                continue
            if name not in self._files:
                file = GrowingArray(self.folder / f"{name}.npy", array.dtype, array.shape[1:])
                self._files[name] = self._stack.enter_context(file)
            self._files[name].append(array)

    def close(self) -> None:
        """Finish the files."""
        self._stack.close()
        for name, parts in self._parts.items():
            np.save(self.folder / f"{name}.npy", join_lists(parts, self.padding))


def join_lists(parts: Sequence[np.ndarray], padding: int) -> np.ndarray:
    """Put lists, `[rows, longest, width]`, after each other, all filled up to the longest."""
    longest = max(part.shape[1] for part in parts)
    room = [((0, 0), (0, longest - part.shape[1]), (0, 0)) for part in parts]
    return np.concatenate([np.pad(part, each, constant_values=padding) for part, each in zip(parts, room, strict=True)])
