"""What standardised targets, renumbered channels and rotated layers inside deep networks do to the scores."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from test_laws import (
    PREDICTIONS,
    SCORES,
    N,
    T,
    assert_alike,
    hidden,
    law,
    network,
    rotation,
    rows,
    scores,
    seeds,
)
from torch import nn

from nrc_probe import analyze


def with_outputs(model, change):
    """The network with its last weight (t, d) and bias (t,) changed."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        weight, bias = change(changed[-1].weight, changed[-1].bias)
        changed[-1] = nn.Linear(weight.shape[1], len(weight), dtype=torch.float64)
        changed[-1].weight.copy_(weight)
        changed[-1].bias.copy_(bias)
    return changed


@given(seed=seeds, widths=hidden, unit=st.floats(1e-2, 1e2))
@law
def test_standardised_targets_divide_every_column_s_error_by_its_variance(seed, widths, unit):
    model, (x, y) = network(seed, widths), rows(seed)
    y = y * torch.tensor([1.0, unit]) + torch.tensor([0.0, 7.0])
    mean, deviation = y.mean(0), y.std(0, unbiased=False)
    columns = [
        scores(with_outputs(model, lambda w, b, k=k: (w[k : k + 1], b[k : k + 1])), x, y[:, k : k + 1])
        for k in range(T)
    ]
    fitting = with_outputs(model, lambda w, b: (w / deviation[:, None], (b - mean) / deviation))
    standardised = scores(fitting, x, y, standardize=("targets",))

    def expected(value):
        return sum(value(one) / float(d) ** 2 for one, d in zip(columns, deviation, strict=True)) / T

    assert standardised.model_mse == pytest.approx(expected(lambda one: one.model_mse), rel=1e-9)
    for place, layer in enumerate(standardised.layers):
        assert layer.nrc4 == pytest.approx(expected(lambda one, k=place: one.layers[k].nrc4), rel=1e-6)
        # the mean of each column's variance is then 1
        assert layer.nrc4_r2 == pytest.approx(1 - layer.nrc4, rel=1e-6, abs=1e-9)


@given(seed=seeds, widths=hidden, standardize=st.sampled_from([(), ("targets",)]))
@example(seed=234, widths=[3, 5, 10], standardize=("targets",))  # at the default cutoff it is the other way
@law
def test_an_intercept_never_harms_the_linear_map_where_no_direction_is_cut_off(seed, widths, standardize):
    result = scores(network(seed, widths), *rows(seed), standardize=standardize, rcond=0.0)
    for layer in result.layers:
        assert layer.nrc4_no_intercept >= layer.nrc4 * (1 - 1e-9)


@given(seed=seeds, widths=hidden)
@law
def test_standardised_targets_leave_the_features_and_the_weights_scores_alone(seed, widths):
    model, (x, y) = network(seed, widths), rows(seed)
    y = y * torch.tensor([0.1, 30.0])
    own = ("nrc1", "nrc3", "nrc3_noise", "effective_rank", "stable_rank_features", "stable_rank_covariance")
    standardised = scores(model, x, y, standardize=("targets",))
    for plain, other in zip(scores(model, x, y).layers, standardised.layers, strict=True):
        assert_alike(plain, other, own)


class Maps(nn.Module):
    """Three convolutions, the middle one beside a shortcut, and a head."""

    def __init__(self, seed, width):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(2, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 5, 1)
        self.head = nn.Linear(5, T)
        self.double()

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.tanh(x + self.middle(x))
        return self.head(torch.tanh(self.last(x)).mean((2, 3)))


@given(seed=seeds, width=st.integers(3, 8))
@law
def test_renumbering_channels_throughout_a_residual_block_changes_no_score_of_any_layer(seed, width):
    torch.manual_seed(seed)
    data = [(torch.randn(N, 2, 4, 4).double(), torch.randn(N, T).double())]
    model = Maps(seed, width)
    expected = analyze(model, data)
    order = torch.randperm(width)
    with torch.no_grad():
        for module, side in ((model.first, 0), (model.middle, 0), (model.middle, 1), (model.last, 1)):
            module.weight.copy_(module.weight.index_select(side, order).clone())
            if side == 0:
                module.bias.copy_(module.bias[order].clone())
    got = analyze(model, data)
    for a, b in zip(expected.layers, got.layers, strict=True):
        assert_alike(a, b, SCORES + PREDICTIONS)
    assert got.model_mse == pytest.approx(expected.model_mse)


@given(seed=seeds, widths=hidden)
@law
def test_rotating_every_linear_s_input_at_once_changes_no_score_of_any(seed, widths):
    model, (x, y) = network(seed, widths), rows(seed)
    expected = scores(model, x, y)
    steps = []
    for place, module in enumerate(model):
        if isinstance(module, nn.Linear):
            Q = rotation(seed + place, module.in_features)
            turn = nn.Linear(*Q.shape, bias=False, dtype=torch.float64)
            with torch.no_grad():
                turn.weight.copy_(Q)
                module.weight.copy_(module.weight @ Q.T)
            steps += [turn]
        steps += [module]
    got = scores(nn.Sequential(*steps), x, y)
    # turns alternate with the layers; a turn itself reads what the layer read before
    for before, turn, turned in zip(expected.layers, got.layers[::2], got.layers[1::2], strict=True):
        assert_alike(before, turned)
        assert_alike(before, turn, ("nrc1", "nrc2", "cka", *PREDICTIONS))
