"""Where LAPACK's quick routines do not converge, slower ones find the same."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from nrc_probe import lapack
from nrc_probe.spectra import feature_spectra, weight_spectrum

EIGH = scipy.linalg.eigh


def refuse(*_, **__):
    raise torch.linalg.LinAlgError("linalg.svd: The algorithm failed to converge")


def refuse_divide_and_conquer(matrix, *, driver, **options):
    if driver == "evd":
        raise np.linalg.LinAlgError("Internal Error.")
    return EIGH(matrix, driver=driver, **options)


def covariance(d):
    torch.manual_seed(d)
    root = torch.randn(d, d, dtype=torch.float64)
    return root @ root.T / d, torch.randn(d, dtype=torch.float64)


@pytest.mark.parametrize("d", [40, 200])  # a whole decomposition, and one by reflections
def test_features_are_decomposed_where_divide_and_conquer_does_not_converge(d, monkeypatch):
    S, mean = covariance(d)
    usual = feature_spectra(S, mean)
    monkeypatch.setattr(lapack, "of_tridiagonal", lambda *_: None)
    monkeypatch.setattr(scipy.linalg, "eigh", refuse_divide_and_conquer)
    slow = feature_spectra(S, mean)
    for one, other in ((usual.centred, slow.centred), (usual.uncentred, slow.uncentred)):
        torch.testing.assert_close(one.values, other.values, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(one.coordinates(S[:, :2]).abs(), other.coordinates(S[:, :2]).abs())


@pytest.mark.parametrize("d", [40, 200])  # a whole decomposition, and leading directions only
def test_weights_are_decomposed_where_the_quick_ways_do_not_converge(d, monkeypatch):
    W = covariance(d)[0].float()
    usual = weight_spectrum(W, 3)
    monkeypatch.setattr(lapack, "leading", lambda *_: None)
    monkeypatch.setattr(torch.linalg, "svd", refuse)
    slow = weight_spectrum(W, 3)
    torch.testing.assert_close(usual.values, slow.values, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(usual.directions.abs(), slow.directions.abs())
