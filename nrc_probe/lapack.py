"""Routines of BLAS and LAPACK, as scipy carries them, that let other threads run meanwhile.

scipy's own wrappers hold Python's global lock while a routine works, so that only one would at a time.
Called through their addresses, which scipy gives to compiled code, they hold nothing. All matrices are
float64; of symmetric ones the lower triangle in LAPACK's order of memory is read, which is the upper
one of an array in C order.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from scipy.linalg import cython_blas, cython_lapack

Matrix = npt.NDArray[np.float64]
_WORK_PER_COLUMN = 64
"""Enough for the block sizes that LAPACK chooses."""


def add_gram(rows: Matrix, total: Matrix) -> None:
    """Add rowsᵀ rows to the upper triangle of `total`; its lower triangle stays as it is.

    rows: (n, w) and total: (w, w), both in C order.
    """
    n, w = rows.shape
    assert rows.flags.c_contiguous
    assert total.flags.c_contiguous
    assert total.shape == (w, w)
    if n:
        _call(cython_blas, "dsyrk", b"L", b"N", w, n, 1.0, rows, w, 1.0, total, w)


def tridiagonal_form(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Reflections below the subdiagonal, diagonal, subdiagonal, and scales of the reflections (dsytrd).

    matrix: (d, d) symmetric, in Fortran order; it is overwritten by the reflections.
    """
    d = len(matrix)
    assert matrix.flags.f_contiguous
    diagonal, beside, scales = np.empty(d), np.empty(max(0, d - 1)), np.empty(max(0, d - 1))
    work = np.empty(_WORK_PER_COLUMN * d)
    info = _solve("dsytrd", b"L", d, matrix, d, diagonal, beside, scales, work, len(work))
    assert info == 0, "dsytrd refuses only arguments that are out of range"
    return matrix, diagonal, beside, scales


def of_tridiagonal(diagonal: Matrix, beside: Matrix) -> tuple[Matrix, Matrix] | None:
    """Eigenvalues, ascending, and eigenvectors as columns, of a symmetric tridiagonal matrix (dstevd).

    diagonal: (d,). beside: (d - 1,). None where divide and conquer does not converge.
    """
    d = len(diagonal)
    values, rest = diagonal.copy(), np.append(beside, 0.0)
    vectors = np.empty((d, d), order="F")
    work, counts = np.empty(1 + 4 * d + d * d), np.empty(3 + 5 * d, np.intc)
    info = _solve("dstevd", b"V", d, values, rest, vectors, d, work, len(work), counts, len(counts))
    return None if info else (values, vectors)


def leading(matrix: Matrix, count: int) -> tuple[Matrix, Matrix] | None:
    """The largest `count` eigenvalues, ascending, and their eigenvectors as columns (dsyevr).

    matrix: (d, d) symmetric, in Fortran order; it is overwritten. None where it does not converge.
    """
    d = len(matrix)
    assert matrix.flags.f_contiguous
    assert 1 <= count <= d
    found, support = np.zeros(1, np.intc), np.empty(2 * count, np.intc)
    values, vectors = np.empty(d), np.empty((d, count), order="F")
    work, counts = np.empty(_WORK_PER_COLUMN * d), np.empty(10 * d, np.intc)
    which = (b"V", b"I", b"L", d, matrix, d, 0.0, 0.0, d - count + 1, d, 0.0)
    result = (found, values, vectors, d, support)
    info = _solve("dsyevr", *which, *result, work, len(work), counts, len(counts))
    return None if info or found[0] != count else (values[:count], vectors)


def _solve(routine: str, *arguments: bytes | float | npt.NDArray[Any]) -> int:
    """What the LAPACK routine leaves in its last argument, info: 0 is success."""
    info = np.zeros(1, np.intc)
    _call(cython_lapack, routine, *arguments, info)
    return int(info[0])


def _call(library: Any, routine: str, *arguments: bytes | float | npt.NDArray[Any]) -> None:
    """Call a Fortran routine, which takes an address for each argument: int, float, one letter or array."""
    _function(library, routine, len(arguments))(*map(_address, arguments))


def _address(argument: bytes | float | npt.NDArray[Any]) -> Any:
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data_as(ctypes.c_void_p)
    if isinstance(argument, bytes):
        return ctypes.c_char_p(argument)
    return ctypes.byref(ctypes.c_int(argument) if isinstance(argument, int) else ctypes.c_double(argument))


@cache
def _function(library: Any, routine: str, count: int) -> Any:
    capsule = scipy.LowLevelCallable.from_cython(library, routine)
    kind = capsule.signature
    # so that a build of scipy with other types is told, not called
    assert kind.count("*") == count, f"unexpected {routine}: {kind}"
    assert "int *" in kind, f"unexpected {routine}: {kind}"
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    place = address(library.__pyx_capi__[routine], kind.encode())
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count)(place)
