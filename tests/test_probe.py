"""From a checkpoint or a live module to a result: every number equals its oracle, end to end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from networks import Named, ResNet, basic, trained
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nrc_probe import analyze, list_layers
from nrc_probe.errors import CheckpointError, ConfigError, DataError, LayerError

HOPPER = Path(__file__).parent.parent / "fixtures" / "hopper"
RCOND = 1e-3


class Inputs(dict):
    """The inputs of every Linear and convolution of a model on `x`, as float64 numpy, by name."""

    def __init__(self, model, x):
        super().__init__()
        hooks = [
            module.register_forward_hook(self._keep(name))
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        ]
        with torch.no_grad():
            self.output = model.eval()(x.clone()).double().numpy()
        for hook in hooks:
            hook.remove()

    def _keep(self, name):
        def keep(_module, inputs, _output):
            h = inputs[0].double().numpy().copy()
            self[name] = h.mean((2, 3)) if h.ndim == 4 else h

        return keep


def weight_of(model, name):
    weight = model.get_submodule(name).weight.detach()
    return (weight if weight.ndim == 2 else weight.movedim(1, -1).flatten(0, -2)).numpy()


def assert_equals_oracles(layer, H, Y, W, r, cka=oracles.linear_cka, near=1e-6):
    H, Y = np.asarray(H, np.float64), np.asarray(Y, np.float64)
    signal = oracles.centred(H) @ oracles.top_directions(H, r)
    assert layer.rank == r
    assert layer.nrc1 == pytest.approx(oracles.nrc1(H, r), abs=near)
    assert layer.nrc2 == pytest.approx(cka(signal, Y), abs=near)
    assert layer.nrc3 == pytest.approx(oracles.nrc3(H, W, r), abs=near)
    assert layer.nrc3_noise == pytest.approx(oracles.nrc3_noise(H, W, r), abs=near)
    assert layer.cka == pytest.approx(cka(H, Y), abs=near)
    assert layer.nrc4 == pytest.approx(oracles.nrc4(H, Y, RCOND), rel=1e-4, abs=1e-12)
    no_intercept = oracles.nrc4_no_intercept(H, Y, RCOND)
    assert layer.nrc4_no_intercept == pytest.approx(no_intercept, rel=1e-4, abs=1e-12)


def assert_same_scores(one, other, near=1e-6, nrc4=1e-4):
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    for a, b in zip(one.layers, other.layers, strict=True):
        for name in ("nrc1", "nrc2", "nrc3", "nrc3_noise", "cka"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=near, nan_ok=True), name
        for name in ("nrc4", "nrc4_no_intercept"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=nrc4), name
        assert a.nrc4_rank == b.nrc4_rank
    assert one.model_mse == pytest.approx(other.model_mse, rel=1e-6)


# ------------------------------------------------------------------------ fixtures, end to end


def prepared(name):
    """Rows of a Hopper file as the network saw them: by the training rows' mean and deviation."""
    train, rows = np.load(HOPPER / "train.npz"), np.load(HOPPER / f"{name}.npz")
    columns = []
    for key in ("x", "y"):
        known = train[key].astype(np.float64)
        columns.append((rows[key] - known.mean(0)) / known.std(0))
    return torch.from_numpy(columns[0].astype(np.float32)), columns[1]


def stack(checkpoint):
    """The bias-free ReLU network, written down here, with a checkpoint's weights."""
    weights = load_file(HOPPER / f"{checkpoint}.safetensors")
    names = sorted(weights, key=lambda name: int(name.split(".")[1]))
    modules = {}
    for name in names:
        out, width = weights[name].shape
        linear = modules[name.removesuffix(".weight").replace(".", "/")] = nn.Linear(width, out, bias=False)
        linear.weight.data = weights[name]
    return Named(modules, " relu ".join(modules))


@pytest.fixture(scope="module")
def results():
    return {name: analyze(HOPPER / f"{name}.safetensors") for name in ("wd_1e-3", "wd_0")}


@pytest.mark.parametrize("checkpoint", ["wd_1e-3", "wd_0"])
def test_a_checkpoint_scores_as_the_oracles_do_on_all_its_features(results, checkpoint):
    result, model = results[checkpoint], stack(checkpoint)
    (x, Y), (x2, Y2) = prepared("train"), prepared("test")
    H, H2 = Inputs(model, x), Inputs(model, x2)
    assert [layer.name.replace(".", "/") for layer in result.layers] == list(H)
    assert [layer.width for layer in result.layers] == [11] + [256] * 7
    assert result.skipped == ()
    assert result.model_mse == pytest.approx(((H.output - Y) ** 2).mean(), abs=1e-6)
    assert result.heldout.model_mse == pytest.approx(((H2.output - Y2) ** 2).mean(), abs=1e-6)
    for layer, heldout in zip(result.layers, result.heldout.layers, strict=True):
        name = layer.name.replace(".", "/")
        W = weight_of(model, name)
        assert_equals_oracles(layer, H[name], Y, W, 3, oracles.linear_cka_of_covariances)
        expected = oracles.nrc4_heldout(H[name], Y, H2[name], Y2, RCOND)
        assert (heldout.name, heldout.nrc4) == (layer.name, pytest.approx(expected, rel=1e-4))
        assert layer.nrc4_ratio == pytest.approx(layer.nrc4 / result.model_mse)


@pytest.mark.parametrize("batch_size", [7, 3999, 4000])
def test_scores_do_not_depend_on_the_batch_size(results, batch_size):
    again = analyze(HOPPER / "wd_1e-3.safetensors", batch_size=batch_size)
    assert_same_scores(results["wd_1e-3"], again)


def test_scores_of_single_rows_are_those_of_the_whole():
    whole = analyze(HOPPER / "wd_1e-3.safetensors", limit=300)
    single = analyze(HOPPER / "wd_1e-3.safetensors", limit=300, batch_size=1)
    assert whole.data.n == 300
    assert_same_scores(whole, single)
    model, (x, Y) = stack("wd_1e-3"), prepared("train")
    H = Inputs(model, x[:300])
    for layer in single.layers:
        name = layer.name.replace(".", "/")
        assert_equals_oracles(layer, H[name], Y[:300], weight_of(model, name), 3)


def test_scores_do_not_depend_on_the_order_of_the_rows(results):
    data, order = np.load(HOPPER / "train.npz"), np.random.default_rng(0).permutation(4000)
    pair = (data["x"][order], data["y"][order])
    assert_same_scores(results["wd_1e-3"], analyze(HOPPER / "wd_1e-3.safetensors", pair))


@pytest.mark.parametrize("checkpoint", ["wd_1e-3", "wd_0"])
def test_fast_precision_errs_no_more_than_documented(results, checkpoint):
    fast = analyze(HOPPER / f"{checkpoint}.safetensors", precision="fast")
    assert_same_scores(results[checkpoint], fast, near=1e-6, nrc4=1e-3)
    assert fast.layers != results[checkpoint].layers  # it is another computation
    for a, b in zip(results[checkpoint].heldout.layers, fast.heldout.layers, strict=True):
        assert a.nrc4 == pytest.approx(b.nrc4, rel=1e-3)


def test_what_found_config_and_checkpoint_say_needs_no_other_word(results):
    result = results["wd_1e-3"]
    assert result.data.standardized == ("inputs", "targets")
    assert (result.data.n, result.heldout.data.n) == (4000, 1000)
    assert result.first_collapsed_layer == "layers.8"
    assert results["wd_0"].first_collapsed_layer == "layers.14"  # the last layer alone
    assert result.warnings == ()
    json.loads(result.to_json())


# -------------------------------------------------------------------------------- the hard cases


def mlp(*widths, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    steps = []
    for width, out in pairwise(widths):
        steps += [nn.Linear(width, out, dtype=dtype), nn.ReLU()]
    return nn.Sequential(*steps[:-1])


def case(n=60, d=5, t=2, mean=0.0, scale=1.0):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)) * scale + mean
    y = (x - mean) @ rng.standard_normal((d, t)) / scale + 0.1 * rng.standard_normal((n, t))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y)


CASES = {
    "plain": (mlp(5, 8, 8, 2), case(), {}),
    "inputs whose mean is 1e6 deviations": (mlp(5, 8, 2), case(mean=1e6), {}),
    "small inputs of a large mean": (mlp(5, 8, 2), case(mean=100.0, scale=1e-3), {}),
    "fewer rows than features": (mlp(5, 40, 40, 2), case(n=9), {}),
    "one target": (mlp(5, 8, 8, 1), case(t=1), {}),
    "twelve targets": (mlp(15, 20, 20, 12), case(d=15, t=12), {}),
    "an integer rank": (mlp(5, 8, 8, 2), case(), {"rank": 4}),
    "one row in the last batch": (mlp(5, 8, 8, 2), case(n=61), {"batch_size": 20}),
    "single rows": (mlp(5, 8, 8, 2), case(n=30), {"batch_size": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_hard_cases_equal_the_oracles(name):
    model, (x, y), options = CASES[name]
    result = analyze(model, (x.numpy(), y.numpy()), **options)
    H = Inputs(model, x)
    assert [layer.name for layer in result.layers] == list(H)
    for layer in result.layers:
        r = options.get("rank", y.shape[1])
        assert_equals_oracles(layer, H[layer.name], y.numpy(), weight_of(model, layer.name), r)
    expected = ((H.output - y.numpy()) ** 2).mean()
    assert result.model_mse == pytest.approx(expected, rel=1e-6)


def test_a_float64_network_whose_inputs_have_a_mean_of_1e6_deviations_loses_no_digit():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((60, 5)) * 1e-3 + 1e3)
    y = (x - 1e3) @ torch.from_numpy(rng.standard_normal((5, 2))) * 1e3
    model = mlp(5, 8, 2, dtype=torch.float64)
    result = analyze(model, [(x[:17], y[:17]), (x[17:], y[17:])])
    H = Inputs(model, x)
    for layer in result.layers:
        assert_equals_oracles(layer, H[layer.name], y.numpy(), weight_of(model, layer.name), 2)
    assert result.layers[0].nrc4 == pytest.approx(0, abs=1e-9)


def test_dead_units_are_directions_without_variance():
    model = mlp(5, 8, 8, 2)
    model[0].bias.data[[1, 4]] = -1e4
    x, y = case()
    layer = analyze(model, (x, y)).layers[1]
    H = Inputs(model, x)["2"]
    assert not H[:, [1, 4]].any()
    assert_equals_oracles(layer, H, y.numpy(), weight_of(model, "2"), 2)


def test_a_dead_layer_is_undefined_with_a_reason_and_breaks_no_other():
    model = mlp(5, 8, 8, 2)
    model[0].bias.data[:] = -1e4
    x, y = case()
    result = analyze(model, (x, y))
    first, *dead = result.layers
    assert 0 < first.nrc1 < 1
    for layer in dead:
        assert math.isnan(layer.nrc1)
        assert not any(layer.conditions[name] for name in ("nrc1", "nrc2", "nrc3"))
        assert layer.notes[0].startswith("features do not vary")
        assert layer.nrc4 == pytest.approx(float(y.var(0, unbiased=False).mean()))
    assert result.first_collapsed_layer is None
    assert json.loads(result.to_json())["layers"][1]["nrc1"] is None


def test_a_condition_that_rounding_decides_is_not_met():
    eye = torch.eye(4)
    x = torch.cat([eye, -eye])
    (layer,) = analyze(nn.Linear(4, 1), (x, x[:, :1])).layers
    assert layer.undecided == ("nrc2", "nrc3")
    everything = {"nrc2": -1.0, "nrc3": -1.0}
    (layer,) = analyze(nn.Linear(4, 1), (x, x[:, :1]), thresholds=everything).layers
    assert not any(layer.conditions[name] for name in ("nrc2", "nrc3"))


def test_constant_targets_are_undefined_with_a_warning():
    model, (x, _) = mlp(5, 8, 2), case()
    result = analyze(model, (x, torch.full((60, 2), 3.0)))
    assert "targets do not vary: R², NRC2 and CKA are undefined" in result.warnings
    assert math.isnan(result.model_r2)
    assert result.data.target_rank is None
    assert all(math.isnan(layer.nrc2) and layer.nrc1 > 0 for layer in result.layers)


def test_a_single_row_has_no_variance_and_says_so():
    model, (x, y) = mlp(5, 8, 2), case(n=1)
    result = analyze(model, (x, y))
    assert result.data.n == 1
    for layer in result.layers:
        assert math.isnan(layer.nrc1)
        assert layer.nrc4 == 0
        assert f"1 rows for {layer.width} features" in layer.notes[0]
    expected = ((Inputs(model, x).output - y.numpy()) ** 2).mean()
    assert result.model_mse == pytest.approx(expected, rel=1e-6)
    json.loads(result.to_json())


def test_a_rank_above_the_width_is_cut_to_it_with_a_note():
    model, (x, y) = mlp(3, 8, 2), case(d=3)
    first, second = analyze(model, (x, y), rank=6).layers
    assert (first.rank, first.nrc1) == (3, 0)
    assert "rank >= width 3: NRC1 is trivially 0" in first.notes
    assert second.rank == 6


def test_the_automatic_rank_is_the_targets_own():
    model, (x, y) = mlp(5, 8, 8, 4), case()
    low = torch.cat([y, y], 1)  # four targets of rank 2
    result = analyze(model, (x, low), rank="auto")
    assert (result.data.target_dim, result.data.target_rank) == (4, 2)
    assert result.settings.rank == "auto"
    H = Inputs(model, x)
    for layer in result.layers:
        assert_equals_oracles(layer, H[layer.name], low.numpy(), weight_of(model, layer.name), 2)


def test_the_automatic_rank_of_constant_targets_is_their_number():
    model, (x, _) = mlp(5, 8, 2), case()
    assert analyze(model, (x, torch.ones(60, 2)), rank="auto").layers[0].rank == 2


# -------------------------------------------------------------------------------------- networks


def test_a_resnet_equals_the_oracles_with_global_average_pooling():
    torch.manual_seed(1)
    model = trained(ResNet(basic([1, 1]), nn.Linear(8, 2), kernel=3))
    x = torch.randn(40, 3, 8, 8)
    y = torch.randn(40, 2, dtype=torch.float64)
    result = analyze(model, (x, y), batch_size=16)
    H = Inputs(model, x)
    assert [layer.name for layer in result.layers] == list(H)
    assert {layer.type for layer in result.layers} == {"Conv2d", "Linear"}
    for layer in result.layers:
        assert_equals_oracles(layer, H[layer.name], y.numpy(), weight_of(model, layer.name), 2)


def test_flattened_maps_have_no_weight_that_reads_them_but_every_other_score():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.randn(60, 3, 5, 5), torch.randn(60, 2)
    first, second, head = analyze(model, (x, y), pooling="flatten").layers
    for layer, width in ((first, 75), (second, 36)):
        assert layer.width == width
        assert math.isnan(layer.nrc3)
        assert "no weight reads these features: NRC3 is undefined" in layer.notes
        assert 0 < layer.nrc1 < 1
    assert 0 < head.nrc3 <= 1
    assert first.nrc1 == pytest.approx(oracles.nrc1(x.flatten(1).numpy(), 2), abs=1e-6)


def test_tokens_are_samples_of_their_own_with_their_rows_targets():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(5, 6), nn.Linear(6, 2)

        def forward(self, x, mask):
            return self.head((self.embed(x).relu() * mask[..., None]).sum(1))

    model, rng = Reader(), torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, 5, generator=rng)
    mask = (torch.rand(30, 4, generator=rng) < 0.7).float()
    mask[:, 0] = 1
    y = torch.randn(30, 2, generator=rng)
    batches = [({"x": x[i], "mask": mask[i]}, y[i]) for i in (slice(0, 13), slice(13, 30))]
    layer, head = analyze(model, batches, pooling="tokens").layers
    kept = mask.bool()
    assert_equals_oracles(
        layer,
        x[kept].numpy(),
        y.repeat_interleave(kept.sum(1), 0).numpy(),
        weight_of(model, "embed"),
        2,
    )
    pooled = (model.embed(x).relu() * mask[..., None]).sum(1).detach().numpy()
    assert_equals_oracles(head, pooled, y.numpy(), weight_of(model, "head"), 2)


def test_mean_pooling_of_tokens_leaves_out_masked_ones():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(5, 2)

        def forward(self, x, attention_mask):
            return (self.embed(x) * attention_mask[..., None]).sum(1)

    x, y = torch.randn(30, 4, 5), torch.randn(30, 2)
    mask = torch.ones(30, 4, dtype=torch.long)
    mask[::2, 2:] = 0
    model = Reader()
    (layer,) = analyze(model, [({"x": x, "attention_mask": mask}, y)]).layers
    H = torch.stack([row[m == 1].double().mean(0) for row, m in zip(x, mask, strict=True)])
    assert_equals_oracles(layer, H.numpy(), y.numpy(), weight_of(model, "embed"), 2)


# ------------------------------------------------------------------------------------- live data


def test_every_way_to_pass_data_gives_the_same_scores():
    model, (x, y) = mlp(5, 8, 8, 2), case()
    y = y.float()
    expected = analyze(model, (x.numpy(), y.numpy()))
    samples = TensorDataset(x, y)
    for data in (
        (x, y),
        samples,
        DataLoader(samples, batch_size=7),
        DataLoader(samples, batch_size=7, shuffle=True),
        [(x[:31], y[:31]), (x[31:], y[31:])],
        ((x[i : i + 9], y[i : i + 9]) for i in range(0, 60, 9)),
        {"x": x, "y": y},
    ):
        assert_same_scores(expected, analyze(model, data))


def test_heldout_rows_can_be_a_pair_of_arrays():
    model, (x, y) = mlp(5, 8, 2), case(n=90)
    result = analyze(model, (x[:60], y[:60]), heldout=(x[60:].numpy(), y[60:].numpy()))
    H, H2 = Inputs(model, x[:60]), Inputs(model, x[60:])
    assert result.heldout.data.n == 30
    assert result.heldout.model_mse == pytest.approx(((H2.output - y[60:].numpy()) ** 2).mean())
    for layer in result.heldout.layers:
        pairs = (H[layer.name], y[:60].numpy(), H2[layer.name], y[60:].numpy())
        assert layer.nrc4 == pytest.approx(oracles.nrc4_heldout(*pairs, RCOND), rel=1e-4)


def test_heldout_rows_are_standardised_by_the_training_rows():
    model, (x, y) = mlp(5, 8, 2), case(n=90, mean=7.0, scale=3.0)
    mean, std = x[:60].double().mean(0), x[:60].double().std(0, unbiased=False)
    result = analyze(model, (x[:60], y[:60]), heldout=(x[60:], y[60:]), standardize=["inputs"])
    by_hand = [((part.double() - mean) / std).float() for part in (x[:60], x[60:])]
    expected = analyze(model, (by_hand[0], y[:60]), heldout=(by_hand[1], y[60:]))
    for a, b in zip(result.heldout.layers, expected.heldout.layers, strict=True):
        assert a.nrc4 == pytest.approx(b.nrc4, rel=1e-6)


def test_a_layer_that_fails_on_heldout_rows_only_is_named_in_a_warning():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = self.a(x)
            h[x[:, 0] > 100] = math.inf
            return self.b(h)

    (x, y), far = case(), torch.full((3, 5), 1000.0)
    result = analyze(Breaks(), (x, y), heldout=(far, torch.randn(3, 2)))
    assert [layer.name for layer in result.layers] == ["a", "b"]
    assert [layer.name for layer in result.heldout.layers] == ["a"]
    assert [text for text in result.warnings if text.startswith("held-out data")] == [
        "held-out data: the network's output is not finite (first at row 0, position 0)",
        "held-out data: layer 'b': its input is not finite (first at row 0, position 0)",
    ]


def test_progress_names_what_is_read():
    told = []
    model, (x, y) = mlp(5, 8, 2), case(n=10)
    analyze(
        model,
        (x, y),
        heldout=(x[:3], y[:3]),
        batch_size=6,
        progress=lambda *words: told.append(words),
    )
    assert told == [("data", 6, 10), ("data", 10, 10), ("held-out data", 3, 3)]


# ------------------------------------------------------------------------ skipped, warned, listed


def test_a_shared_layer_is_reported_as_skipped_and_not_scored():
    shared = nn.Linear(5, 5)
    model, (x, y) = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(5, 2)), case()
    result = analyze(model, (x, y))
    assert [layer.name for layer in result.layers] == ["3"]
    (skipped,) = result.skipped
    reason = "ran more than once in one forward pass: it has no single input"
    assert (skipped.name, skipped.type, skipped.reason) == ("0", "Linear", reason)


def test_where_no_layer_can_be_scored_the_result_still_has_the_networks_own_error():
    model, (x, y) = mlp(5, 8, 2), case()
    result = analyze(model, (x, y), max_width=4)
    assert result.layers == ()
    assert "no layer could be scored: see the reasons under 'skipped'" in result.warnings
    assert [item.reason for item in result.skipped] == [
        "wider than --max-width (5 > 4)",
        "wider than --max-width (8 > 4)",
    ]
    assert result.model_mse > 0
    assert (result.first_collapsed_layer, result.last_layer_2024) == (None, None)


def test_a_network_no_better_than_the_mean_is_warned_about():
    model, (x, y) = mlp(5, 8, 2), case()
    (warning,) = analyze(model, (x, y + 50)).warnings
    assert warning.startswith("the network predicts no better than the mean (R² -")


def test_a_network_that_predicts_is_not_warned_about():
    (x, y), model = case(), nn.Linear(5, 2)
    solution = torch.linalg.lstsq(x.double(), y).solution
    model.weight.data, model.bias.data = solution.T.float(), torch.zeros(2)
    result = analyze(model, (x, y))
    assert result.warnings == ()
    assert result.layers[0].nrc4_ratio <= 1


def test_a_limit_and_a_pattern_without_a_match_are_warned_about():
    model, (x, y) = mlp(5, 8, 2), case()
    warnings = analyze(model, (x, y), limit=12, exclude=["conv*"]).warnings
    assert "only the first 12 of 60 rows were used (--limit)" in warnings
    assert "--exclude 'conv*' matches no layer" in warnings
    assert not any("--limit" in text for text in analyze(model, (x, y), limit=60).warnings)


def test_an_output_that_is_not_finite_is_warned_about_and_not_mistaken_for_constant_targets():
    model, (x, y) = mlp(5, 8, 2), case()
    model[2].weight.data[:] = 3e38
    result = analyze(model, (x, y))
    assert any(text.startswith("the network's output is not finite (") for text in result.warnings)
    assert not any("targets do not vary" in text for text in result.warnings)
    assert math.isnan(result.model_mse)
    assert math.isnan(result.layers[0].nrc4_ratio)
    assert not result.layers[0].conditions["nrc4"]
    assert result.layers[0].nrc2 > 0


def test_what_is_chosen_and_left_out_stands_in_the_result():
    model, (x, y) = mlp(5, 8, 8, 2), case()
    result = analyze(model, (x, y), layers=["0", "2"], exclude=["2"])
    assert [layer.name for layer in result.layers] == ["0"]
    assert {item.name: item.reason for item in result.skipped} == {
        "2": "excluded by '2'",
        "4": "not chosen by --layers",
    }


def test_a_misspelt_layer_is_an_error_before_any_data_are_read():
    def unread():
        raise AssertionError
        yield

    with pytest.raises(LayerError, match="layer 'fc3' is not in the model; it has: 0, 2 "):
        analyze(mlp(5, 8, 2), unread(), layers=["fc3"])


def test_list_layers_needs_no_data_and_reads_ranks_off_the_weights():
    model = mlp(5, 8, 2)
    model[0].weight.data[:] = torch.outer(torch.arange(1.0, 9), torch.ones(5))
    listed = list_layers(model, exclude=["2"])
    (layer,) = listed.layers
    assert (layer.name, layer.type, layer.width, layer.out) == ("0", "Linear", 5, 8)
    assert (layer.weight_shape, layer.weight_rank) == ((8, 5), 1)
    assert layer.stable_rank_weight == pytest.approx(1)
    assert [item.name for item in listed.skipped] == ["2"]


def test_listed_names_are_the_scored_names(results):
    listed = list_layers(HOPPER / "wd_1e-3.safetensors")
    assert [layer.name for layer in listed.layers] == [layer.name for layer in results["wd_1e-3"].layers]


# ---------------------------------------------------------------------- collapse and the last layer


def collapsing(*widths):
    """Linear layers between which features have as many directions as the width before them."""
    return nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(widths)])


def test_collapse_starts_where_it_and_every_later_layer_meet_nrc1():
    x, y = torch.randn(80, 6), torch.randn(80, 2)
    model = collapsing(6, 2, 6, 2)  # behind 2 units all features lie in a plane
    result = analyze(model, (x, y))
    assert [layer.conditions["nrc1"] for layer in result.layers] == [False, True, True]
    assert result.first_collapsed_layer == "1"


def test_an_undefined_layer_breaks_the_chain_of_collapse():
    x, y = torch.randn(80, 6), torch.randn(80, 2)
    model = collapsing(6, 2, 6, 4, 2)
    model[2].weight.data[:] = 0  # what the last layer reads does not vary
    result = analyze(model, (x, y))
    assert [layer.conditions["nrc1"] for layer in result.layers] == [False, True, True, False]
    assert result.first_collapsed_layer is None


def test_the_terms_of_2024_are_those_of_the_last_linear():
    model, (x, y) = mlp(5, 8, 8, 3), case(t=3)
    got = analyze(model, (x, y)).last_layer_2024
    H = Inputs(model, x)["4"]
    first, second, third = oracles.last_layer_2024(H, y.numpy(), weight_of(model, "4"))
    assert got.nrc1 == pytest.approx(first, abs=1e-6)
    assert got.nrc2 == pytest.approx(second, abs=1e-6)
    assert got.nrc3 == pytest.approx(third, abs=1e-6)


def test_another_layer_never_stands_in_for_the_last_linear():
    model, (x, y) = mlp(5, 8, 8, 3), case(t=3)
    assert analyze(model, (x, y), exclude=["4"]).last_layer_2024 is None
    convolutional = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = (torch.randn(9, 3, 2, 2), torch.randn(9, 2))
    assert analyze(convolutional, images).last_layer_2024 is None


# ---------------------------------------------------------------------- the live module stays as is


def test_analysing_a_model_in_training_changes_nothing_of_it():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    model.train()
    model[1].eval()
    model[0].requires_grad_(False)
    hook = model[3].register_forward_hook(lambda *_: None)
    x, y = case()
    loss = model(x).sum()
    loss.backward()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = [id(p) for p in model.parameters()]
    drawn = torch.get_rng_state()

    samples = TensorDataset(x, y.float())
    first = analyze(model, samples, heldout=DataLoader(samples, batch_size=9, shuffle=True))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert_same_scores(first, analyze(model, samples))
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    for grad, parameter in zip(grads, model.parameters(), strict=True):
        assert parameter.grad is None if grad is None else torch.equal(parameter.grad, grad)
    assert list(model[3]._forward_hooks) == [hook.id]
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_users_arrays_stay_as_they_are_under_a_network_that_writes_into_its_input():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 2)

        def forward(self, x):
            return self.fc(x.mul_(2))

    x, y = case()
    kept = x.clone()
    for data in ((x, y), [(x, y)]):
        analyze(Writes(), data)
        assert torch.equal(x, kept)


def test_an_error_in_the_data_leaves_no_hook():
    model, (x, y) = mlp(5, 8, 2), case()

    def broken():
        yield x, y
        raise OSError("the disk is gone")

    model.train()
    with pytest.raises(DataError, match="OSError: the disk is gone"):
        analyze(model, broken())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(m.training for m in model.modules())


def test_a_value_that_is_not_finite_is_placed_also_in_a_later_batch():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 3), nn.Linear(3, 2)

        def forward(self, x):
            h = self.a(x)
            h[x[:, 0] > 100, 2] = math.nan
            return self.b(h).nan_to_num(0)

    x, y = case()
    x[41, 0] = 1000
    result = analyze(Breaks(), (x, y), batch_size=16)
    assert [layer.name for layer in result.layers] == ["a"]
    (skipped,) = result.skipped
    assert skipped.reason == "its input is not finite (first at row 41, position 2)"


@pytest.mark.parametrize(("width", "t"), [(1, 2), (64, 300), (150, 300)])
def test_a_last_layer_narrower_than_the_targets_is_scored(width, t):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, t))
    x = torch.randn(400, 4)
    result = analyze(model, (x, torch.randn(400, t)))
    assert result.layers[-1].rank == width
    assert result.last_layer_2024.nrc1 == pytest.approx(0, abs=1e-9)


class Unused(nn.Module):
    """A module that a live network holds and never calls."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.odd, self.last = odd, nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x)


def eight_bits() -> nn.Module:
    linear = nn.Linear(5, 5)
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    return linear


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(5), eight_bits])
def test_a_weight_that_cannot_be_looked_at_costs_only_its_own_layer(make: Callable[[], nn.Module]) -> None:
    result = analyze(Unused(make()), (torch.randn(30, 5), torch.randn(30, 2)))
    assert [layer.name for layer in result.layers] == ["last"]
    assert [item.name for item in result.skipped] == ["odd"]


def test_a_live_network_without_values_is_refused() -> None:
    network = Unused(nn.Linear(5, 5, device="meta"))
    with pytest.raises(CheckpointError, match=r"'odd.weight' has no values: it lies on the meta device"):
        analyze(network, (torch.randn(30, 5), torch.randn(30, 2)))


def test_errors_too_large_to_be_squared_are_warned_about_and_meet_no_condition() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).double()
    network[1].weight.data *= 1e160
    pair = (torch.randn(30, 5).double(), torch.randn(30, 2).double())
    result = analyze(network, pair, heldout=pair)
    said = "the network's errors are too large to be squared"
    assert result.warnings == (f"{said}: its error is undefined", f"held-out data: {said}")
    assert [layer.conditions["nrc4"] for layer in result.layers] == [False, False]
    assert [math.isnan(layer.nrc4_ratio) for layer in result.layers] == [True, True]


@pytest.mark.parametrize("option", [{"activation": "gelu"}, {"model": "m:f"}, {"state_key": "net"}])
def test_a_live_module_takes_no_option_about_files(option):
    (x, y), model = case(), mlp(5, 8, 2)
    name = next(iter(option))
    with pytest.raises(
        ConfigError, match=rf"'{name}' is about checkpoint files, but a live module was given"
    ):
        analyze(model, (x, y), **option)


def test_held_out_rows_that_are_the_rows_of_the_data_are_told(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("d.npz", "e.npz"):
        np.savez(tmp_path / name, x=rng.normal(size=(40, 5)).astype("f4"), y=rng.normal(size=(40, 2)))
    model, said = mlp(5, 8, 2), "the held-out rows are the rows of the data"
    same = analyze(model, tmp_path / "d.npz", heldout=tmp_path / "d.npz")
    assert sum(warning.startswith(said) for warning in same.warnings) == 1
    other = analyze(model, tmp_path / "d.npz", heldout=tmp_path / "e.npz")
    assert not any(warning.startswith(said) for warning in other.warnings)
