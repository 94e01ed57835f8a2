"""Features are taken the moment they exist; whatever happens, the model is left as it was."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from nrc_probe.capture import Capture
from nrc_probe.errors import DataError, OutputError
from nrc_probe.layers import find_layers

WIDE = 10_000


class Watch:
    """A capture that keeps copies of what it sees."""

    def __init__(self, model, pooling="mean", max_width=WIDE, fail=None):
        self.features, self.targets, self.fail = {}, {}, fail
        layers, _ = find_layers(model)
        self.capture = Capture(model, layers, self.consume, pooling=pooling, max_width=max_width)

    def consume(self, layer, features, targets):
        if self.fail:
            raise self.fail
        self.features.setdefault(layer.name, []).append(features.clone())
        self.targets.setdefault(layer.name, []).append(targets.clone())

    def run(self, *batches, t=2):
        """Predictions of the last batch; a batch is its inputs, or inputs and number of rows."""
        with self.capture.watching():
            for batch in batches:
                inputs, n = batch if isinstance(batch, tuple) and len(batch) == 2 else (batch, None)
                targets = torch.randn(len(inputs) if n is None else n, t, dtype=torch.float64)
                out = self.capture.forward(inputs, targets)
        self.capture.finish()
        return out

    @property
    def skipped(self):
        return self.capture.skipped

    def rows(self, name):
        return torch.cat(self.features[name])


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class Made(nn.Module):
    """Layers under given names, and a forward that is a function of them."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = forward

    def forward(self, *args, **kwargs):
        return self.function(self.layers, *args, **kwargs)


# ------------------------------------------------------------------------------- what is captured


def test_features_are_the_inputs_of_each_layer_in_run_order():
    model, x = mlp(), torch.randn(5, 3)
    watch = Watch(model)
    out = watch.run(x)
    assert watch.capture.order == ["0", "2"]
    assert torch.equal(watch.rows("0"), x)
    with torch.no_grad():
        assert torch.equal(watch.rows("2"), model[1](model[0](x)))
        assert torch.equal(out, model(x).double())


def test_layers_stand_in_the_order_in_which_they_run_not_in_which_they_were_made():
    model = Made(lambda m, x: m["b"](m["a"](x)), b=nn.Linear(4, 2), a=nn.Linear(3, 4))
    watch = Watch(model)
    watch.run(torch.randn(5, 3))
    assert watch.capture.order == ["layers.a", "layers.b"]


def test_an_in_place_activation_does_not_change_the_features():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    watch = Watch(model)
    x = torch.randn(5, 3)
    watch.run(x.clone())
    torch.testing.assert_close(watch.rows("2"), (x @ model[0].weight.T + model[0].bias).relu())


def test_a_later_in_place_change_of_the_captured_input_does_not_reach_the_features():
    def forward(m, x):
        h = m["a"](x)
        x.mul_(100)
        out = m["b"](h)
        h.zero_()
        return out

    watch = Watch(Made(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2)))
    x = torch.randn(5, 3)
    watch.run(x.clone())
    assert torch.equal(watch.rows("layers.a"), x)
    assert watch.rows("layers.b").any()


def test_inputs_passed_by_keyword_are_found():
    class Renamed(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    def forward(m, x):
        return m["b"](x=m["a"](input=x))

    watch = Watch(Made(forward, a=nn.Linear(3, 4), b=Renamed(4, 2)))
    x = torch.randn(5, 3)
    watch.run(x)
    assert torch.equal(watch.rows("layers.a"), x)
    assert watch.rows("layers.b").shape == (5, 4)


def test_a_layer_called_without_a_tensor_is_skipped_with_its_reason():
    class Odd(nn.Linear):
        def forward(self, scale):
            return self.weight.sum() * scale

    watch = Watch(Made(lambda m, x: m["b"](x) + m["a"](1.0), a=Odd(3, 4), b=nn.Linear(3, 2)))
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {"layers.a": "is not called with a tensor"}


def test_a_hook_of_the_users_own_runs_first_and_stays():
    model, x = mlp(), torch.randn(5, 3)
    model[0].register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    watch = Watch(model)
    watch.run(x)
    assert torch.equal(watch.rows("0"), x + 1)
    assert len(model[0]._forward_pre_hooks) == 1


def test_transformer_layers_are_watched_though_evaluation_has_a_fast_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(24, 2))
    watch = Watch(model)
    watch.run(torch.randn(5, 3, 8))
    assert watch.capture.order == ["0.layers.0.linear1", "0.layers.0.linear2", "2"]
    assert watch.skipped == {"0.layers.0.self_attn.out_proj": "never ran in the forward pass"}


def test_padded_tokens_of_a_transformer_are_masked_not_dropped():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)

    def forward(m, x, mask):
        return m["head"](m["encoder"](x, src_key_padding_mask=mask == 0).mean(1))

    watch = Watch(Made(forward, encoder=encoder, head=nn.Linear(8, 2)))
    mask = torch.ones(4, 5)
    mask[1, 3:] = 0
    x = torch.randn(4, 5, 8)
    watch.run(({"x": x, "mask": mask}, 4))
    layer = encoder.layers[0].eval()
    with torch.no_grad():
        attended, _ = layer.self_attn(x, x, x, key_padding_mask=mask == 0)
        read = layer.norm1(x + attended).double()
    expected = torch.stack([row[kept == 1].mean(0) for row, kept in zip(read, mask, strict=True)])
    torch.testing.assert_close(watch.rows("layers.encoder.layers.0.linear1"), expected, rtol=1e-5, atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled()


def test_inputs_that_are_not_dense_floats_are_skipped_with_what_they_are():
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x.to_dense().float() if x.is_sparse else x.real)

    def forward(m, x):
        return m["sparse"](x.to_sparse()) + m["complex"](torch.complex(x, x))

    watch = Watch(Made(forward, sparse=Odd(3, 2), complex=Odd(3, 2)))
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {
        "layers.sparse": "its input is torch.float32, torch.sparse_coo: expected dense floats",
        "layers.complex": "its input is torch.complex64, torch.strided: expected dense floats",
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_keep_the_networks_precision(dtype):
    watch = Watch(mlp().to(dtype))
    out = watch.run(torch.randn(5, 3, dtype=dtype))
    assert watch.rows("2").dtype == dtype
    assert out.dtype == torch.float64


def test_under_tokens_pooling_each_token_has_its_samples_targets():
    model = Made(
        lambda m, x, attention_mask: m["head"]((m["a"](x) * attention_mask[..., None]).sum(1)),
        a=nn.Linear(3, 4),
        head=nn.Linear(4, 2),
    )
    mask = torch.tensor([[1, 1, 0], [0, 0, 1]])
    watch = Watch(model, pooling="tokens")
    watch.run(({"x": torch.randn(2, 3, 3), "attention_mask": mask}, 2))
    head = watch.targets["layers.head"][0]
    assert torch.equal(watch.targets["layers.a"][0], head[[0, 0, 1]])
    assert watch.rows("layers.a").shape == (3, 3)


# ------------------------------------------------------------------- inputs and outputs of models


def test_a_tuple_is_positional_and_a_mapping_is_keywords():
    model = Made(lambda m, a, b: m["f"](a - 2 * b), f=nn.Linear(3, 2))
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    for inputs in ((a, b), {"b": b, "a": a}, MappingProxyType({"a": a, "b": b})):
        watch = Watch(model)
        watch.run((inputs, 5))
        assert torch.equal(watch.rows("layers.f"), a - 2 * b)


@dataclass
class Output:
    loss: Tensor | None
    hidden: tuple[Tensor, ...]
    prediction: Tensor


OUTPUTS = {
    "tuple": lambda y, h: (y, h),
    "the prediction second": lambda y, h: (h, y),
    "list": lambda y, _: [y],
    "mapping": lambda y, h: {"loss": y.sum(), "hidden": h, "prediction": y},
    "ordered mapping": lambda y, _: OrderedDict(logits=y),
    "dataclass": lambda y, h: Output(None, (h,), y),
    "an axis of 1": lambda y, _: y[:, None],
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_prediction_is_the_first_tensor_of_the_targets_shape(kind):
    def forward(m, x):
        h = m["a"](x)
        return OUTPUTS[kind](m["b"](h), h)

    model, x = Made(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2)), torch.randn(5, 3)
    out = Watch(model).run(x)
    with torch.no_grad():
        assert torch.equal(out, model.layers["b"](model.layers["a"](x)).double())


def test_modules_may_pass_tuples_and_mappings_to_each_other():
    class Pair(nn.Module):
        def forward(self, x):
            return x, {"twice": 2 * x}

    def forward(m, x):
        _, named = m["pair"](m["a"](x))
        return m["b"](named["twice"])

    watch = Watch(Made(forward, a=nn.Linear(3, 4), pair=Pair(), b=nn.Linear(4, 2)))
    watch.run(torch.randn(5, 3))
    assert watch.capture.order == ["layers.a", "layers.b"]


def test_one_column_of_targets_fits_a_flat_prediction():
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    assert Watch(model).run(torch.randn(5, 3), t=1).shape == (5, 1)


def test_a_network_that_returns_no_tensor_says_what_it_returns():
    model = Made(lambda m, x: str(m["a"](x)), a=nn.Linear(3, 2))
    with pytest.raises(DataError, match="the network returns no tensor but str"):
        Watch(model).run(torch.randn(5, 3))


def test_a_prediction_of_another_width_names_both_shapes():
    with pytest.raises(DataError) as error:
        Watch(mlp()).run(torch.randn(5, 3), t=7)
    assert str(error.value) == (
        "the network predicts shape (5, 2), but the targets of the batch have shape (5, 7) "
        "(check which arrays are the targets: --targets, or [data] in nrc-probe.toml)"
    )


class OddError(Exception):
    """Nothing that torch raises."""


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("no\nsecond line"), r"of shape \(5, 3\): no \("),
        (KeyError("mask"), "KeyError: 'mask' "),
        (AssertionError(), r": AssertionError \("),
        (OddError("  "), r": OddError \("),
        (AttributeError("has no x"), "AttributeError: has no x "),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero "),
    ],
)
def test_whatever_a_network_raises_is_one_line_for_the_user(raised, said):
    def forward(*_):
        raise raised

    with pytest.raises(DataError, match=said) as error:
        Watch(Made(forward, a=nn.Linear(3, 2))).run(torch.randn(5, 3))
    assert "\n" not in str(error.value)
    assert "the network cannot take the inputs" in str(error.value)
    assert "(check which arrays are the inputs: --inputs, " in str(error.value)
    assert error.value.__cause__ is raised


# ------------------------------------------------------------------------------ layers left aside


def test_a_layer_that_never_runs_is_skipped_with_its_reason():
    watch = Watch(Made(lambda m, x: m["a"](x), a=nn.Linear(3, 2), spare=nn.Linear(3, 2)))
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {"layers.spare": "never ran in the forward pass"}


@pytest.mark.parametrize("late", [True, False])
def test_a_layer_that_runs_in_some_batches_only_is_skipped_with_its_reason(late):
    def forward(m, x):
        return m["a"](m["b"](x) if (len(x) == 3) is late else x)

    watch = Watch(Made(forward, a=nn.Linear(3, 2), b=nn.Linear(3, 3)))
    watch.run(torch.randn(5, 3), torch.randn(3, 3))
    assert watch.skipped == {"layers.b": "did not run in every batch"}


def test_a_shared_layer_is_skipped_since_it_has_no_single_input():
    shared = nn.Linear(3, 3)
    watch = Watch(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2)))
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {"0": "ran more than once in one forward pass: it has no single input"}
    assert watch.capture.order == ["0", "3"]


def test_two_layers_that_share_a_weight_are_both_followed():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    model[2].weight = model[0].weight
    watch = Watch(model)
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {}


def test_a_wide_layer_is_skipped_and_says_how_wide():
    watch = Watch(mlp(), max_width=3)
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {"2": "wider than --max-width (4 > 3)"}


def test_flatten_counts_all_positions_as_width():
    model = nn.Sequential(nn.Linear(3, 2), nn.Flatten(), nn.Linear(8, 2))
    watch = Watch(model, pooling="flatten", max_width=8)
    watch.run(torch.randn(5, 4, 3))
    assert watch.skipped == {"0": "wider than --max-width (12 > 8)"}


def test_flattened_sequences_of_changing_length_are_skipped_with_both_widths():
    model = Made(lambda m, x: m["b"](m["a"](x).mean(1)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    watch = Watch(model, pooling="flatten")
    watch.run(torch.randn(5, 4, 3), torch.randn(5, 2, 3))
    assert watch.skipped == {"layers.a": "its width changes from batch to batch (12, then 6)"}


def test_sequences_of_changing_length_are_no_obstacle_to_the_mean():
    model = Made(lambda m, x: m["b"](m["a"](x).mean(1)), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    watch = Watch(model)
    watch.run(torch.randn(5, 4, 3), torch.randn(5, 2, 3))
    assert watch.skipped == {}


def test_an_input_that_is_not_a_batch_is_skipped_with_its_shape():
    def forward(m, x):
        return m["head"](x) + m["once"](x.mean(0)) + m["twice"](x.repeat(2, 1))[: len(x)]

    layers = {name: nn.Linear(3, 2) for name in ("head", "once", "twice")}
    watch = Watch(Made(forward, **layers))
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {
        "layers.once": "its input has shape (3,) for a batch of 5 rows",
        "layers.twice": "its input has shape (10, 3) for a batch of 5 rows",
    }


def test_one_map_without_a_batch_axis_is_not_taken_for_a_batch():
    def forward(m, x):
        return m["head"](x) + m["conv"](x[:, :, None]).mean()

    watch = Watch(Made(forward, head=nn.Linear(5, 2), conv=nn.Conv2d(5, 2, 1)))
    watch.run(torch.randn(5, 5))  # as many rows as channels
    assert watch.skipped == {"layers.conv": "its input has shape (5, 5, 1) for a batch of 5 rows"}


@pytest.mark.parametrize("pooling", ["mean", "max", "tokens", "flatten"])
def test_sequences_of_no_token_are_skipped_with_their_shape(pooling):
    def forward(m, x):
        return m["head"](x) + m["a"](x[:, None, :][:, :0]).sum()

    watch = Watch(Made(forward, head=nn.Linear(3, 2), a=nn.Linear(3, 2)), pooling=pooling)
    watch.run(torch.randn(5, 3))
    assert watch.skipped == {"layers.a": "its input has shape (5, 0, 3) for a batch of 5 rows"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_value_that_is_not_finite_is_placed_by_row_and_position(value):
    def forward(m, x):
        out = m["a"](x)
        broken = x.clone()
        broken[broken == 7] = value
        return out + m["b"](broken.nan_to_num(0) if len(x) == 1 else broken)

    watch = Watch(Made(forward, a=nn.Linear(3, 2), b=nn.Linear(3, 2)))
    second = torch.zeros(4, 3)
    second[2, 1] = second[3, 0] = 7
    watch.run(torch.zeros(5, 3), second)
    assert watch.skipped == {
        "layers.b": "its input is not finite (first at row 7, position 1)",
    }


def test_opposite_infinities_do_not_cancel():
    model = Made(lambda m, x: m["a"](x * math.inf).nan_to_num(0), a=nn.Linear(2, 2, bias=False))
    watch = Watch(model)
    watch.run(torch.tensor([[1.0, -1.0]]))
    assert watch.skipped == {"layers.a": "its input is not finite (first at row 0, position 0)"}


def test_positions_of_a_map_name_every_axis():
    x = torch.zeros(2, 1, 3, 3)
    x[1, 0, 2, 1] = math.nan
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    watch = Watch(model)
    watch.run(x)
    assert watch.skipped == {"0": "its input is not finite (first at row 1, position 0, 2, 1)"}


def test_finite_values_whose_sum_is_not_are_skipped_with_their_reason():
    watch = Watch(nn.Linear(2, 2, dtype=torch.float64))
    watch.run(torch.full((4, 2), 1e308, dtype=torch.float64))
    assert watch.skipped == {"": "its input overflows float64 in a sum"}


@pytest.mark.parametrize("pooling", ["mean", "max", "first", "last"])
def test_a_row_whose_mask_leaves_no_token_is_a_reason_not_a_nan(pooling):
    def forward(m, x, mask):
        h = m["a"](x)
        return m["head"]((h * mask[..., None]).sum(1))

    model = Made(forward, a=nn.Linear(3, 4), head=nn.Linear(4, 2))
    full, holed = torch.ones(2, 3), torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    watch = Watch(model, pooling=pooling)
    watch.run(*[({"x": torch.randn(2, 3, 3), "mask": m}, 2) for m in (full, holed)])
    reason = "the mask leaves no token of row 3: there is nothing to pool"
    assert watch.skipped == {"layers.a": reason}
    assert watch.rows("layers.head").shape == (4, 4)


def test_an_attention_mask_tells_which_tokens_count():
    model = Made(lambda m, x, attention_mask: m["a"](x).mean(1) + 0 * attention_mask.sum(), a=nn.Linear(3, 2))
    x, mask = torch.randn(2, 3, 3), torch.tensor([[1, 1, 0], [0, 0, 1]])
    watch = Watch(model)
    watch.run(({"x": x, "attention_mask": mask}, 2))
    expected = torch.stack([x[0, :2].double().mean(0), x[1, 2].double()])
    torch.testing.assert_close(watch.rows("layers.a"), expected)


# ---------------------------------------------------------------------- the model is left as it was


def busy():
    """Dropout and BatchNorm, in modes that are not all the same, one layer frozen."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 2)))
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    return model


def state_of(model):
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.device for parameter in model.parameters()],
        [parameter.grad for parameter in model.parameters()],
        [len(module._forward_pre_hooks) for module in model.modules()],
    )


def assert_untouched(model, before):
    after = state_of(model)
    assert after[1:] == before[1:]
    assert after[0].keys() == before[0].keys()
    assert all(torch.equal(after[0][name], before[0][name]) for name in before[0])


def test_evaluation_mode_holds_during_the_pass_and_each_module_is_back_in_its_own_mode():
    model = busy()
    before, x = state_of(model), torch.randn(5, 3)
    watch = Watch(model)
    first, second = watch.run(x), Watch(model).run(x)
    assert torch.equal(first, second)  # no dropout
    assert_untouched(model, before)  # and no running statistics


def test_no_gradient_is_recorded():
    model, x = mlp(), torch.randn(5, 3, requires_grad=True)
    seen = []
    model[2].register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    out = Watch(model).run(x)
    assert not out.requires_grad
    assert seen == [False]
    assert torch.is_grad_enabled()


def test_modes_are_put_back_as_they_were_where_a_module_has_its_own_train():
    class StaysOff(nn.Dropout):
        def train(self, _=True):
            return super().train(False)

    model = nn.Sequential(nn.Linear(3, 2), StaysOff(0.5))
    model[1].training = True
    Watch(model).run(torch.randn(5, 3))
    assert [module.training for module in model.modules()] == [True] * 3


def test_hooks_are_gone_where_the_model_refuses_to_evaluate():
    class Refuses(nn.Sequential):
        def eval(self):
            raise RuntimeError("no evaluation")

    model = Refuses(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="no evaluation"):
        Watch(model).run(torch.randn(5, 3))
    assert not model[0]._forward_pre_hooks


class Stop(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, *_):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("x"), OddError("x")])
def test_hooks_are_gone_after_an_error_in_the_model(error):
    model = nn.Sequential(nn.Linear(3, 4), Stop(error), nn.Linear(4, 2))
    before = state_of(model)
    with pytest.raises(DataError, match="cannot take the inputs"):
        Watch(model).run(torch.randn(5, 3))
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_an_interruption_passes_through_and_hooks_are_gone(error):
    model = nn.Sequential(nn.Linear(3, 4), Stop(error), nn.Linear(4, 2))
    before = state_of(model)
    with pytest.raises(type(error)):
        Watch(model).run(torch.randn(5, 3))
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [OutputError("the disk is full"), RuntimeError("ours")])
def test_an_error_of_the_consumer_passes_through_as_it_is(error):
    model = mlp()
    before = state_of(model)
    with pytest.raises(type(error)) as raised:
        Watch(model, fail=error).run(torch.randn(5, 3))
    assert raised.value is error
    assert_untouched(model, before)


def test_hooks_are_gone_after_an_error_between_batches():
    model = mlp()
    before = state_of(model)
    watch = Watch(model)

    def interrupted():
        with watch.capture.watching():
            watch.capture.forward(torch.randn(5, 3), torch.randn(5, 2))
            raise OddError("the data set broke")

    with pytest.raises(OddError):
        interrupted()
    assert_untouched(model, before)
