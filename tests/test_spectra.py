"""Decompositions keep their digits in awkward positions, and go another way where a routine gives up."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import scipy.linalg
import torch
from test_metrics import covariance_and_mean

from nrc_probe import lapack
from nrc_probe.spectra import feature_spectra, scaled, weight_spectrum


def nothing(*_):
    return None


def refused(*_, **__):
    raise AssertionError("another routine was asked")


def told(monkeypatch, name):
    """Which options a routine of scipy is called with, from now on."""
    routine, calls = getattr(scipy.linalg, name), []

    def call(*arguments, **options):
        calls.append(options)
        return routine(*arguments, **options)

    monkeypatch.setattr(scipy.linalg, name, call)
    return calls


def assert_spectra_of(S, m):
    found = feature_spectra(S, m)
    for got, matrix in ((found.centred, S), (found.uncentred, S + torch.outer(m, m))):
        U = got.directions(len(S))
        scale = float(matrix.abs().max())
        torch.testing.assert_close((U * got.values) @ U.T, matrix, rtol=0, atol=1e-12 * scale)


def weight_with(values, shape=(160, 150)):
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in shape)
    return torch.from_numpy(U * values @ V.T)


def test_features_are_decomposed_another_way_where_divide_and_conquer_does_not_converge(monkeypatch):
    monkeypatch.setattr(lapack, "of_tridiagonal", nothing)
    calls = told(monkeypatch, "eigh_tridiagonal")
    assert_spectra_of(*covariance_and_mean(150, 2.0))
    assert [call["lapack_driver"] for call in calls] == ["stev"] * 2  # plain QR iteration


def test_small_features_are_decomposed_by_qr_where_divide_and_conquer_does_not_converge(monkeypatch):
    eigh, drivers = scipy.linalg.eigh, []

    def refuse_divide_and_conquer(matrix, *, driver, **options):
        drivers.append(driver)
        if driver == "evd":
            raise np.linalg.LinAlgError("Internal Error.")
        return eigh(matrix, driver=driver, **options)

    monkeypatch.setattr(scipy.linalg, "eigh", refuse_divide_and_conquer)
    assert_spectra_of(*covariance_and_mean(40, 2.0))
    assert drivers[:2] == ["evd", "ev"]


def test_a_small_weight_is_decomposed_by_qr_where_torch_does_not_converge(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("linalg.svd: The algorithm failed to converge")

    W = weight_with(np.linspace(3, 1, 20), (30, 40))
    expected = weight_spectrum(W, 4)
    monkeypatch.setattr(torch.linalg, "svd", refuse)
    calls = told(monkeypatch, "svd")
    got = weight_spectrum(W, 4)
    assert [call["lapack_driver"] for call in calls] == ["gesvd"]
    assert got.directions.shape == expected.directions.shape
    torch.testing.assert_close(got.values, expected.values)
    torch.testing.assert_close(got.directions[:, :20].abs(), expected.directions[:, :20].abs())


def test_a_weight_is_decomposed_another_way_where_its_leading_values_do_not_converge(monkeypatch):
    W = weight_with(np.linspace(3, 1, 150))
    expected = weight_spectrum(W, 4)
    monkeypatch.setattr(lapack, "leading", nothing)
    calls = told(monkeypatch, "eigh")
    got = weight_spectrum(W, 4)
    assert [call["driver"] for call in calls] == ["evx"]  # not the one that gave up, once more
    torch.testing.assert_close(got.values, expected.values)
    torch.testing.assert_close(got.directions.abs(), expected.directions.abs())
    assert got.stable_rank == pytest.approx(expected.stable_rank)


def test_large_matrices_are_left_to_the_routines_that_let_other_threads_run(monkeypatch):
    for name in ("eigh", "eigh_tridiagonal"):
        monkeypatch.setattr(scipy.linalg, name, refused)
    assert_spectra_of(*covariance_and_mean(150, 2.0))
    assert weight_spectrum(weight_with(np.linspace(3, 1, 150)), 4).rank == 5


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_almost_along_the_first_axis_costs_no_digit(sign):
    S, _ = covariance_and_mean(150, 0.0)
    mean = torch.full((150,), -1e-7 * sign, dtype=torch.float64)
    mean[0] = 100 * sign
    assert_spectra_of(S, mean)


@pytest.mark.parametrize("small", [3e-5, 1e-6, 1e-9])
def test_the_last_leading_value_of_a_float64_weight_keeps_its_digits_however_small(small):
    values = np.array([1, 0.5, small])
    got = weight_spectrum(weight_with(values), 2)
    np.testing.assert_allclose(got.values[:3], values, rtol=1e-14 / small)


@pytest.mark.parametrize("shape", [(3, 10), (10, 3), (150, 140)])
def test_a_weight_has_a_direction_for_each_of_its_values(shape):
    W = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    for rank in (1, 2):
        got = weight_spectrum(W, rank)
        assert got.directions.shape == (shape[1], len(got.values))
        assert len(got.values) > rank
        torch.testing.assert_close((W @ got.directions).norm(dim=0), got.values)


def test_a_weight_with_a_dead_direction_has_a_stable_rank():
    assert weight_spectrum(torch.diag(torch.tensor([2.0, 1.0, 0.0])), 1).stable_rank == pytest.approx(5 / 4)


def test_spectra_are_not_changed_once_made_and_are_equal_to_themselves_alone():
    both = feature_spectra(*covariance_and_mean(150, 1.0))
    for one in (both, both.centred, both.centred._reflections, weight_spectrum(torch.eye(2), 1)):
        with pytest.raises(FrozenInstanceError):
            setattr(one, fields(one)[0].name, None)
        assert one == one
        assert one != replace(one)


@pytest.mark.parametrize("power", [-1060, -1000, 0, 1000])
def test_scaled_values_are_neither_lost_nor_changed(power):
    values = torch.tensor([0.75, -0.5], dtype=torch.float64) * 2.0**power
    got, k = scaled(values)
    assert got.tolist() == [0.75 * 2.0 ** (power - k), -0.5 * 2.0 ** (power - k)]
    assert k == max(power, -1000)
