"""Least squares without negative coefficients, for a handful of them."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def non_negative(rows: Array, values: Array) -> Array:
    """Coefficients (terms,), none negative, of the smallest sum of squares of rows @ c - values.

    rows (cells, terms); values (cells,). The optimum is an unconstrained solution on some subset
    of the terms, so all subsets are tried: 2^terms small solutions. Subsets whose terms the cells
    do not tell apart are left out; of equally good ones the smallest is taken.
    """
    terms = rows.shape[1]
    best, smallest = np.zeros(terms), float(values @ values)
    for size in range(1, terms + 1):
        for chosen in map(list, combinations(range(terms), size)):
            solution, _, rank, _ = np.linalg.lstsq(rows[:, chosen], values, rcond=None)
            if rank < size or (solution < 0).any():
                continue
            rest = rows[:, chosen] @ solution - values
            squares = float(rest @ rest)
            if squares < smallest * (1 - 1e-9) - 1e-18:
                best, smallest = np.zeros(terms), squares
                best[chosen] = solution
    return best


def held_out(rows: Array, values: Array) -> Array:
    """Each value (cells,) as predicted from all others."""
    keep = ~np.eye(len(values), dtype=bool)
    return np.array(
        [row @ non_negative(rows[k], values[k]) for row, k in zip(rows, keep, strict=True)]
    )
