"""Routines called by address give what numpy gives, and let other threads run."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from nrc_probe import lapack


@pytest.fixture
def covariance():
    rows = np.random.default_rng(0).standard_normal((400, 60)) @ np.diag(np.logspace(0, -3, 60))
    return rows.T @ rows / 400


@pytest.mark.parametrize("n", [0, 1, 7, 300])
def test_a_gram_matrix_is_added_to_the_upper_triangle_alone(n):
    rows = np.random.default_rng(1).standard_normal((n, 11))
    total = np.ones((11, 11))
    lapack.add_gram(rows, total)
    np.testing.assert_allclose(np.triu(total), np.triu(rows.T @ rows + 1), rtol=1e-12, atol=1e-12)
    assert (np.tril(total, -1) == np.tril(np.ones((11, 11)), -1)).all()


def test_the_tridiagonal_form_has_the_eigenvalues(covariance):
    _, diagonal, beside, _ = lapack.tridiagonal_form(np.asfortranarray(covariance))
    form = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(form), np.linalg.eigvalsh(covariance), atol=1e-14)


def test_a_tridiagonal_matrix_is_put_together_again_from_its_eigenvectors():
    rng = np.random.default_rng(2)
    diagonal, beside = rng.standard_normal(50), rng.standard_normal(49)
    values, vectors = lapack.of_tridiagonal(diagonal, beside)
    form = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    np.testing.assert_allclose(vectors * values @ vectors.T, form, atol=1e-13)
    assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("count", [1, 4, 60])
def test_the_leading_eigenvectors_are_numpys(covariance, count):
    values, vectors = lapack.leading(np.asfortranarray(covariance), count)
    all_values, all_vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(values, all_values[-count:], rtol=1e-10, atol=1e-16)
    cosines = np.linalg.svd(all_vectors[:, -count:].T @ vectors, compute_uv=False)
    np.testing.assert_allclose(cosines, 1, atol=1e-9)


def test_matrices_of_one_row_are_decomposed_too():
    one = np.array([[3.0]], order="F")
    assert lapack.leading(one.copy(order="F"), 1)[0] == 3
    assert lapack.of_tridiagonal(np.array([2.0]), np.empty(0))[0] == 2
    assert lapack.tridiagonal_form(one)[1] == 3


def test_other_threads_run_meanwhile():
    rows, total = np.random.default_rng(3).standard_normal((8000, 700)), np.zeros((700, 700))
    lasted = []

    def work():
        started = time.perf_counter()
        lapack.add_gram(rows, total)
        lasted.extend((started, time.perf_counter()))

    worker = threading.Thread(target=work)
    worker.start()
    steps = []
    while worker.is_alive():
        steps.append(time.perf_counter())
        time.sleep(0.001)
    start, stop = lasted
    quarter = (stop - start) / 4
    assert any(start + quarter < step < stop - quarter for step in steps)
