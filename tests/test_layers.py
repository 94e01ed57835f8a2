"""Which modules are scored, their weight as (out, d), and how their input becomes rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nrc_probe.errors import LayerError
from nrc_probe.layers import (
    Layer,
    find_layers,
    pool,
    rows_per_sample,
    unmatched,
    weight_matrix,
)

CONVOLUTIONS = {
    "Conv1d": (nn.Conv1d, 1, {}),
    "Conv2d": (nn.Conv2d, 2, {}),
    "Conv3d": (nn.Conv3d, 3, {}),
    "Conv2d, 2 groups": (nn.Conv2d, 2, {"groups": 2}),
    "Conv1d, 4 groups": (nn.Conv1d, 1, {"groups": 4}),
    "Conv2d, depthwise": (nn.Conv2d, 2, {"groups": 4}),
    "ConvTranspose1d": (nn.ConvTranspose1d, 1, {}),
    "ConvTranspose2d": (nn.ConvTranspose2d, 2, {}),
    "ConvTranspose3d": (nn.ConvTranspose3d, 3, {}),
    "ConvTranspose2d, 2 groups": (nn.ConvTranspose2d, 2, {"groups": 2}),
    "ConvTranspose1d, depthwise": (nn.ConvTranspose1d, 1, {"groups": 4}),
}


def convolution(name, kernel=2):
    kind, axes, options = CONVOLUTIONS[name]
    return kind(4, 8, kernel, bias=False, **options), axes


def responses(module, axes):
    """What one pixel of each channel alone sends to every output: (outputs, channels)."""
    columns = []
    for channel in range(4):
        x = torch.zeros(1, 4, *[3] * axes)
        x[0, channel][(1,) * axes] = 1
        columns.append(module(x).detach().flatten())
    return torch.stack(columns, 1)


# ------------------------------------------------------------------------------------- the weight


def test_the_weight_of_a_linear_is_itself():
    linear = nn.Linear(5, 3)
    assert torch.equal(weight_matrix(Layer("fc", linear)), linear.weight)
    assert not weight_matrix(Layer("fc", linear)).requires_grad


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolutions_rows_are_what_one_position_sends_to_the_outputs(name):
    module, axes = convolution(name)
    matrix = weight_matrix(Layer("c", module))
    assert matrix.shape == (8 * 2**axes, 4)
    sent = responses(module, axes)
    sent = sent[sent.any(1)]  # outputs that the kernel does not reach from there
    order = [np.lexsort(rows.numpy().T) for rows in (matrix, sent)]
    assert torch.equal(matrix[order[0]], sent[order[1]])


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_kernel_of_one_is_the_matrix_that_maps_channels_to_channels(name):
    module, axes = convolution(name, kernel=1)
    x = torch.randn(6, 4, *[1] * axes)
    expected = module(x).flatten(1)
    torch.testing.assert_close(x.flatten(1) @ weight_matrix(Layer("c", module)).T, expected)


@pytest.mark.parametrize("name", ["Conv2d, 2 groups", "ConvTranspose2d, 2 groups"])
def test_rows_of_a_group_are_zero_in_the_channels_of_other_groups(name):
    module, _ = convolution(name)
    first, second = weight_matrix(Layer("c", module)).chunk(2)
    assert not first[:, 2:].any()
    assert not second[:, :2].any()
    assert first[:, :2].all()
    assert second[:, 2:].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_weight_keeps_its_type(dtype):
    module = nn.Conv2d(4, 8, 2, groups=2).to(dtype)
    assert weight_matrix(Layer("c", module)).dtype == dtype


def test_width_and_out_count_channels_not_kernel_positions():
    layer = Layer("c", nn.ConvTranspose2d(6, 4, 3, groups=2))
    assert (layer.type, layer.width, layer.out, layer.is_linear) == ("ConvTranspose2d", 6, 4, False)
    assert (Layer("f", nn.Linear(5, 3)).width, Layer("f", nn.Linear(5, 3)).out) == (5, 3)


# ----------------------------------------------------------------------------------- which layers


def network():
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    return nn.ModuleDict({"block": block, "norm": nn.LayerNorm(4), "head": nn.Linear(4, 2)})


def test_all_linears_and_convolutions_are_chosen_by_default():
    kept, skipped = find_layers(network())
    assert [layer.name for layer in kept] == ["block.0", "block.2", "head"]
    assert skipped == []


def test_globs_choose_and_leave_out_and_every_other_layer_has_its_reason():
    kept, skipped = find_layers(network(), ["block.*"], ["*.2"])
    assert [layer.name for layer in kept] == ["block.0"]
    reasons = {item.name: (item.type, item.reason) for item in skipped}
    assert reasons == {
        "block.2": ("Linear", "excluded by '*.2'"),
        "head": ("Linear", "not chosen by --layers"),
    }


def test_a_pattern_that_chooses_nothing_lists_what_is_there():
    with pytest.raises(LayerError) as error:
        find_layers(network(), ["fc*"])
    assert str(error.value) == (
        "layer 'fc*' is not in the model; it has: block.0, block.2, head (see 'nrc-probe layers')"
    )


def test_excluding_every_layer_is_an_error():
    with pytest.raises(LayerError, match=r"no layer is left to score; it has: block\.0"):
        find_layers(network(), exclude=["*"])


def sparse():
    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(linear.weight.detach().to_sparse())
    return linear


def eight_bits():
    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return linear


UNREADABLE = {
    "empty": (lambda: nn.utils.skip_init(nn.Linear, 0, 4), "its weight is empty, of shape (4, 0)"),
    "lazy": (nn.LazyLinear, "its weight has no shape yet: a lazy module that never ran"),
    "complex": (lambda: nn.Linear(4, 4, dtype=torch.complex64), "its weight is complex64, strided: expected"),
    "sparse": (sparse, "its weight is float32, sparse_coo: expected dense floats"),
    "8 bits": (eight_bits, "its weight is float8_e4m3fn, strided: expected dense floats"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("case", UNREADABLE)
def test_a_layer_whose_weight_has_no_singular_vectors_has_its_reason(case):
    make, reason = UNREADABLE[case]
    odd = make() if case != "lazy" else make(4)
    kept, skipped = find_layers(nn.Sequential(odd, nn.Linear(4, 2)))
    assert [layer.name for layer in kept] == ["1"]
    assert [(item.name, item.reason.startswith(reason)) for item in skipped] == [("0", True)]


def test_a_network_without_layers_says_so():
    with pytest.raises(LayerError, match="it has no Linear or convolution layer"):
        find_layers(nn.ReLU())


def test_a_long_listing_ends_with_the_count():
    many = nn.Sequential(*[nn.Linear(1, 1) for _ in range(11)])
    with pytest.raises(LayerError, match=r"6, 7, \.\.\. \(11 in all\)"):
        find_layers(many, ["x"])


def test_a_shared_module_is_found_once_under_its_first_name():
    shared = nn.Linear(3, 3)
    kept, _ = find_layers(nn.Sequential(shared, nn.ReLU(), shared))
    assert [layer.name for layer in kept] == ["0"]


def test_unmatched_patterns_are_those_that_fit_no_name():
    assert unmatched(["a*", "b*", "C"], ["abc", "c"]) == ["b*", "C"]


# ---------------------------------------------------------------------------------------- pooling

LINEAR, CONV = Layer("f", nn.Linear(5, 3)), Layer("c", nn.Conv2d(5, 3, 1))
SHAPES = {
    "(n, d)": (LINEAR, (4, 5)),
    "(n, s, d)": (LINEAR, (4, 6, 5)),
    "(n, a, b, d)": (LINEAR, (4, 2, 3, 5)),
    "(n, c, l)": (Layer("c", nn.Conv1d(5, 3, 1)), (4, 5, 6)),
    "(n, c, h, w)": (CONV, (4, 5, 2, 3)),
    "(n, c, d, h, w)": (Layer("c", nn.Conv3d(5, 3, 1)), (4, 5, 3, 1, 2)),
}


def expected_rows(x, layer, pooling, mask=None):
    """Sample by sample, position by position."""
    rows = []
    for n, sample in enumerate(x.double().numpy()):
        if layer.is_linear:
            tokens = sample.reshape(-1, sample.shape[-1])
        else:
            tokens = sample.reshape(sample.shape[0], -1).T
        counted = np.ones(len(tokens), bool) if mask is None else mask[n].bool().numpy()
        if pooling == "flatten":
            rows.append((tokens * counted[:, None]).reshape(-1))
        elif pooling == "tokens":
            rows.extend(tokens[counted])
        else:
            kept = tokens[counted]
            rows.append(
                {
                    "mean": kept.mean(0),
                    "max": kept.max(0),
                    "first": kept[0],
                    "last": kept[-1],
                }[pooling]
            )
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "max", "flatten", "tokens", "first", "last"])
@pytest.mark.parametrize("shape", SHAPES)
def test_positions_are_pooled_in_raster_order(shape, pooling):
    layer, size = SHAPES[shape]
    x = torch.randn(size)
    got = pool(x, layer, pooling).double().numpy()
    np.testing.assert_allclose(got, expected_rows(x, layer, pooling), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("pooling", ["mean", "max", "flatten", "tokens", "first", "last"])
@pytest.mark.parametrize("shape", ["(n, s, d)", "(n, a, b, d)", "(n, c, l)", "(n, c, h, w)"])
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_only_tokens_that_count_are_pooled(shape, pooling, kind):
    layer, size = SHAPES[shape]
    x = torch.randn(size) - 5  # a 0 in place of a padded token would be the maximum
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1], [1] * 6])
    got = pool(x, layer, pooling, mask.to(kind)).double().numpy()
    np.testing.assert_allclose(got, expected_rows(x, layer, pooling, mask), rtol=1e-12, atol=1e-15)
    counts = mask.sum(1) if pooling == "tokens" else torch.ones(4)
    assert len(got) == (counts.sum() if pooling == "tokens" else 4)
    assert torch.equal(rows_per_sample(x, layer, mask.to(kind)), mask.sum(1))


def test_a_mask_about_other_positions_is_left_aside():
    x = torch.randn(4, 6, 5)
    mask = torch.zeros(4, 7)
    assert torch.equal(pool(x, LINEAR, "mean", mask), pool(x, LINEAR, "mean"))
    assert rows_per_sample(x, LINEAR, mask).tolist() == [6] * 4
    assert rows_per_sample(x[:, 0], LINEAR, torch.zeros(4, 1)).tolist() == [1] * 4


def test_a_row_without_any_counted_token_gives_no_row_under_tokens_and_zeros_under_flatten():
    x, mask = torch.randn(2, 3, 5), torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert torch.equal(pool(x, LINEAR, "tokens", mask), x[0, [0, 2]])
    assert not pool(x, LINEAR, "flatten", mask)[1].any()


def test_the_mean_of_many_half_precision_positions_keeps_its_digits():
    x = torch.full((1, 4096, 5), 0.1, dtype=torch.bfloat16)
    assert torch.equal(pool(x, LINEAR, "mean"), x[:, 0].double())


@pytest.mark.parametrize(
    ("layer", "shape", "readable"),
    [
        (LINEAR, (4, 5), True),
        (LINEAR, (4, 2, 5), True),
        (LINEAR, (8, 5), False),
        (LINEAR, (5,), False),
        (LINEAR, (4, 0, 5), False),
        (CONV, (4, 5, 2, 2), True),
        (CONV, (4, 2, 2), False),
    ],
)
def test_a_layer_reads_samples_rows_first_and_none_of_them_empty(layer, shape, readable):
    assert layer.reads(torch.Size(shape), 4) is readable
