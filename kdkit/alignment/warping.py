"""Dynamic time warping of two sequences, exact, by the cost of pairing each place of one with each of the other."""

import numpy as np


def warp(costs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Find the cheapest path of steps (1, 1), (1, 0), (0, 1) from the first cell to the last one.

    One anti-diagonal at a time; of equal steps the diagonal one, then the one down the rows is taken.

    Args:
        costs: float, `[rows, columns]`, at least one row and one column, finite.

    Returns:
        Row and column of each cell of the path, int64, and the path's summed cost.
    """
    num_rows, num_columns = costs.shape
    # totals[d + 2, i + 1] is cell (i, d - i); the border stands for cells outside
    totals = np.full((num_rows + num_columns + 1, num_rows + 1), np.inf)
    totals[0, 0] = 0.0
    for d in range(num_rows + num_columns - 1):
        first, stop = max(0, d - num_columns + 1), min(d, num_rows - 1) + 1
        rows = np.arange(first, stop)
        up, left = totals[d + 1, first:stop], totals[d + 1, first + 1 : stop + 1]
        before = np.minimum(np.minimum(totals[d, first:stop], up), left)
        totals[d + 2, first + 1 : stop + 1] = costs[rows, d - rows] + before
    i, j = num_rows - 1, num_columns - 1
    path = [(i, j)]
    while i or j:
        d = i + j
        step = int(np.argmin([totals[d, i], totals[d + 1, i], totals[d + 1, i + 1]]))
        i, j = i - (step < 2), j - (step != 1)
        path.append((i, j))
    path_rows, path_columns = np.array(path[::-1], dtype=np.int64).T
    return path_rows, path_columns, float(totals[-1, -1])


def group_positions(path_rows: np.ndarray, path_columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each row and of each column of a path: int64, `[rows]` and `[columns]`.

    A diagonal step begins a new group; the positions that the other steps join belong together.
    """
    diagonal = (np.diff(path_rows) == 1) & (np.diff(path_columns) == 1)
    groups = np.concatenate([[0], np.cumsum(diagonal)])
    row_groups = np.zeros(path_rows[-1] + 1, dtype=np.int64)
    column_groups = np.zeros(path_columns[-1] + 1, dtype=np.int64)
    row_groups[path_rows], column_groups[path_columns] = groups, groups
    return row_groups, column_groups
