"""What networks that compute the same function, or see the same rows, must score alike."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nrc_probe import analyze

SCORES = ("nrc1", "nrc2", "nrc3", "nrc3_noise", "cka", "effective_rank", "stable_rank_weight")
PREDICTIONS = ("nrc4", "nrc4_no_intercept")
N, D, T = 50, 6, 2

seeds = st.integers(0, 10_000)
hidden = st.lists(st.integers(3, 12), min_size=1, max_size=3)
law = settings(deadline=None, max_examples=20)


def network(seed, widths):
    """A float64 MLP: the laws are exact there, up to rounding."""
    torch.manual_seed(seed)
    steps = []
    for width, out in zip([D, *widths], [*widths, T], strict=True):
        steps += [nn.Linear(width, out, dtype=torch.float64), nn.Tanh()]
    return nn.Sequential(*steps[:-1])


def rows(seed):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_normal((N, D)) * np.linspace(0.5, 2, D) + 1)
    y = torch.from_numpy(rng.standard_normal((N, T))) + x[:, :T]
    return x, y


def scores(model, x, y, sizes=(N,), **options):
    """Analysed in batches of the given sizes; a list of batches keeps its float64."""
    return analyze(model, list(zip(x.split(sizes), y.split(sizes), strict=True)), **options)


def rotation(seed, width):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0])


def assert_alike(one, other, names=SCORES + PREDICTIONS):
    assert one.rank == other.rank
    for name in names:
        # A cosine near 1 carries the root of the rounding: nrc3_noise is a sine.
        near = {"rel": 1e-6, "abs": 1e-7, "nan_ok": True}
        assert getattr(one, name) == pytest.approx(getattr(other, name), **near), name


@given(seed=seeds, widths=hidden, place=st.integers(0, 2))
@law
def test_renumbering_hidden_units_changes_no_score_of_any_layer(seed, widths, place):
    model, (x, y) = network(seed, widths), rows(seed)
    before, after = model[2 * (place % len(widths))], model[2 * (place % len(widths)) + 2]
    expected = scores(model, x, y)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(before.out_features))
    with torch.no_grad():
        before.weight.copy_(before.weight[order].clone())
        before.bias.copy_(before.bias[order].clone())
        after.weight.copy_(after.weight[:, order].clone())
    got = scores(model, x, y)
    for a, b in zip(expected.layers, got.layers, strict=True):
        assert_alike(a, b)
    assert got.model_mse == pytest.approx(expected.model_mse)


@given(seed=seeds, widths=hidden, place=st.integers(0, 3))
@law
def test_rotating_what_a_layer_reads_and_its_weight_changes_no_score_of_it(seed, widths, place):
    model, (x, y) = network(seed, widths), rows(seed)
    expected = scores(model, x, y)
    chosen = place % (len(widths) + 1)
    linear = model[2 * chosen]
    Q = rotation(seed + 1, linear.in_features)
    turn = nn.Linear(*Q.shape, bias=False, dtype=torch.float64)
    turned = nn.Linear(linear.in_features, linear.out_features, dtype=torch.float64)
    with torch.no_grad():
        turn.weight.copy_(Q)
        turned.weight.copy_(linear.weight @ Q.T)
        turned.bias.copy_(linear.bias)
    model[2 * chosen] = nn.Sequential(turn, turned)
    got = {layer.name: layer for layer in scores(model, x, y).layers}
    assert_alike(expected.layers[chosen], got[f"{2 * chosen}.1"])


@given(seed=seeds, widths=hidden, scale=st.floats(1e-3, 1e3))
@law
def test_scaling_the_inputs_and_undoing_it_in_the_first_weight_changes_no_score(seed, widths, scale):
    model, (x, y) = network(seed, widths), rows(seed)
    expected = scores(model, x, y)
    with torch.no_grad():
        model[0].weight /= scale
    for a, b in zip(expected.layers, scores(model, x * scale, y).layers, strict=True):
        assert_alike(a, b)


EVERY_SCALE = (*SCORES, *PREDICTIONS, "stable_rank_features", "stable_rank_covariance", "nrc4_r2")


@given(seed=seeds, widths=hidden, power=st.integers(-145, 145))
@law
def test_no_score_depends_on_the_units_of_the_features_where_float64_holds_their_squares(seed, widths, power):
    model, (x, y) = network(seed, widths), rows(seed)
    expected = scores(model, x, y)
    with torch.no_grad():
        model[0].weight /= 10.0**power
    for a, b in zip(expected.layers, scores(model, x * 10.0**power, y).layers, strict=True):
        assert_alike(a, b, EVERY_SCALE)


@given(seed=seeds, widths=hidden, power=st.integers(-140, 140))
@law
def test_no_score_depends_on_the_units_of_the_targets_where_float64_holds_their_squares(seed, widths, power):
    model, (x, y) = network(seed, widths), rows(seed)
    expected = scores(model, x, y)
    with torch.no_grad():
        model[-1].weight *= 10.0**power
        model[-1].bias *= 10.0**power
    got = scores(model, x, y * 10.0**power)
    for a, b in zip(expected.layers, got.layers, strict=True):
        assert_alike(a, b, (*SCORES, "nrc4_r2", "nrc4_ratio"))
    assert got.model_r2 == pytest.approx(expected.model_r2, rel=1e-9)
    assert got.data.target_stable_rank == pytest.approx(expected.data.target_stable_rank, rel=1e-9)
    for name in ("nrc1", "nrc2", "nrc3"):
        near = pytest.approx(getattr(expected.last_layer_2024, name), rel=1e-6)
        assert getattr(got.last_layer_2024, name) == near


@pytest.mark.parametrize("power", [-145, 145])
def test_a_layer_too_wide_for_one_decomposition_has_no_units_either(power):
    model = nn.Sequential(nn.Linear(150, T, dtype=torch.float64))
    x = torch.randn(400, 150, dtype=torch.float64) * torch.linspace(0.5, 2, 150, dtype=torch.float64)
    y = x[:, :T] + torch.randn(400, T, dtype=torch.float64)
    (expected,) = scores(model, x, y, (400,)).layers
    with torch.no_grad():
        model[0].weight /= 10.0**power
    (got,) = scores(model, x * 10.0**power, y, (400,)).layers
    assert_alike(expected, got, EVERY_SCALE)


@given(seed=seeds, widths=hidden, scale=st.floats(1e-2, 1e2))
@law
def test_other_target_units_scale_errors_by_their_square_and_nothing_else(seed, widths, scale):
    model, (x, y) = network(seed, widths), rows(seed)
    expected = scores(model, x, y)
    with torch.no_grad():
        model[-1].weight *= scale
        model[-1].bias *= scale
    got = scores(model, x, y * scale)
    assert got.model_mse == pytest.approx(expected.model_mse * scale**2, rel=1e-6)
    assert got.model_r2 == pytest.approx(expected.model_r2, rel=1e-6)
    for a, b in zip(expected.layers, got.layers, strict=True):
        assert_alike(a, b, SCORES)
        assert b.nrc4 == pytest.approx(a.nrc4 * scale**2, rel=1e-6)
        assert b.nrc4_ratio == pytest.approx(a.nrc4_ratio, rel=1e-6)
        assert b.nrc4_r2 == pytest.approx(a.nrc4_r2, rel=1e-6)


@given(seed=seeds, widths=hidden, cuts=st.sets(st.integers(1, N - 1), max_size=8))
@law
def test_scores_do_not_depend_on_how_rows_are_cut_into_batches(seed, widths, cuts):
    model, (x, y) = network(seed, widths), rows(seed)
    edges = [0, *sorted(cuts), N]
    sizes = [b - a for a, b in pairwise(edges)]
    for a, b in zip(scores(model, x, y).layers, scores(model, x, y, sizes).layers, strict=True):
        assert_alike(a, b)


@given(seed=seeds, widths=hidden)
@law
def test_scores_do_not_depend_on_the_order_of_the_rows(seed, widths):
    model, (x, y) = network(seed, widths), rows(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(N))
    for a, b in zip(
        scores(model, x, y).layers,
        scores(model, x[order], y[order], (7,) * 7 + (1,)).layers,
        strict=True,
    ):
        assert_alike(a, b)


@given(seed=seeds, widths=hidden)
@law
def test_every_row_twice_scores_as_every_row_once(seed, widths):
    model, (x, y) = network(seed, widths), rows(seed)
    twice = scores(model, torch.cat([x, x]), torch.cat([y, y]), (N, N))
    for a, b in zip(scores(model, x, y).layers, twice.layers, strict=True):
        assert_alike(a, b)


@given(seed=seeds, widths=hidden)
@law
def test_a_network_and_its_copy_score_exactly_alike(seed, widths):
    model, (x, y) = network(seed, widths), rows(seed)
    one, other = scores(model, x, y), scores(copy.deepcopy(model), x, y)
    assert one.to_dict()["layers"] == other.to_dict()["layers"]


@given(seed=seeds, widths=hidden)
@law
def test_no_layer_is_predicted_worse_by_its_best_linear_map_than_by_the_mean(seed, widths):
    model, (x, y) = network(seed, widths), rows(seed)
    of_the_mean = float(y.var(0, unbiased=False).mean())
    result = scores(model, x, y, rcond=0.0)
    assert all(layer.nrc4 <= of_the_mean * (1 + 1e-9) for layer in result.layers)
    # The network's own last layer is a linear map of what it reads: it cannot beat the best one.
    assert result.layers[-1].nrc4_ratio <= 1 + 1e-9


@given(seed=seeds, width=st.integers(3, 12))
@law
def test_a_bottleneck_of_the_signals_width_leaves_no_noise_behind_it(seed, width):
    torch.manual_seed(seed)
    maps = ((D, T), (T, width), (width, T))
    model = nn.Sequential(*[nn.Linear(*shape, dtype=torch.float64) for shape in maps])
    result = scores(model, *rows(seed))
    assert result.layers[2].nrc1 == pytest.approx(0, abs=1e-12)
    assert result.first_collapsed_layer in ("0", "1")
