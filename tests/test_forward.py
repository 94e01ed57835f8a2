"""One pass: sums per layer, the network's own error, and the machine's settings put back."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from nrc_probe import forward
from nrc_probe.dataset import wrap_dataset
from nrc_probe.errors import DataError
from nrc_probe.forward import PassSettings, default_batch_size, prepared, run_pass
from nrc_probe.layers import find_layers
from nrc_probe.moments import MomentAccumulator

CPU = torch.device("cpu")


def settings(**given):
    usual = {
        "pooling": "mean",
        "precision": "exact",
        "max_width": 8192,
        "limit": None,
        "batch_size": 4,
        "device": CPU,
    }
    return PassSettings(**{**usual, **given})


def run(model, data, advance=None, **given):
    layers, _ = find_layers(model)
    return run_pass(model, layers, wrap_dataset(data), settings(**given), advance)


def mlp(t=2):
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, t))


def pair(n=10, t=2, d=3):
    return torch.randn(n, d), torch.randn(n, t)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((11,), 2048), ((3, 32, 32), 170), ((3, 224, 224), 16), ((2**20,), 16), (None, 2048)],
)
def test_batches_hold_many_vectors_and_few_images(shape, rows):
    assert default_batch_size(shape) == rows


@pytest.mark.parametrize("t", [1, 2, 12])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_networks_error_and_r2_equal_numpy(t, batch_size):
    model, (x, y) = mlp(t), pair(t=t)
    watched = run(model, (x, y), batch_size=batch_size)
    with torch.no_grad():
        error = model(x).double().numpy() - y.double().numpy()
    targets = y.double().numpy()
    assert watched.model_mse == pytest.approx((error**2).mean(), rel=1e-6)
    r2 = 1 - (error**2).sum() / ((targets - targets.mean(0)) ** 2).sum()
    assert watched.model_r2 == pytest.approx(r2, abs=1e-6)


def test_an_exact_network_has_error_0_and_r2_1():
    x = torch.randn(10, 3, dtype=torch.float64)
    exact = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    exact.weight.data = torch.eye(2, 3, dtype=torch.float64)
    watched = run(exact, [(x, x[:, :2])])
    assert (watched.model_mse, watched.model_r2) == (0, 1)


def test_constant_targets_have_no_r2():
    x, _ = pair()
    assert math.isnan(run(mlp(), (x, torch.ones(10, 2))).model_r2)


def test_sums_have_the_width_after_pooling(monkeypatch):
    widths = []

    class Counted(MomentAccumulator):
        def __init__(self, width, *args, **kwargs):
            widths.append(width)
            super().__init__(width, *args, **kwargs)

    monkeypatch.setattr(forward, "MomentAccumulator", Counted)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    data = (torch.randn(8, 3, 10, 10), torch.randn(8, 2))
    run(model, data)
    assert widths == [2, 3, 6]  # the first is of the residuals
    widths.clear()
    run(model, data, pooling="flatten", max_width=299)
    assert widths == [2, 6]  # a layer that is too wide never has sums


def test_progress_tells_rows_done_and_rows_in_all():
    told = []
    run(mlp(), pair(10), lambda done, total: told.append((done, total)), batch_size=4)
    assert told == [(4, 10), (8, 10), (10, 10)]
    told.clear()
    run(mlp(), pair(10), lambda done, total: told.append((done, total)), batch_size=4, limit=6)
    assert told == [(4, 6), (6, 6)]
    told.clear()
    run(mlp(), iter([pair(3), pair(2)]), lambda done, total: told.append((done, total)))
    assert told == [(3, None), (5, None)]
    told.clear()
    run(mlp(), iter([pair(3), pair(2)]), lambda done, total: told.append((done, total)), limit=4)
    assert told == [(3, 4), (4, 4)]


def test_batches_without_rows_are_passed_over():
    first, last = pair(4), pair(3)
    got = run(mlp(), [first, pair(0), last])
    whole = tuple(torch.cat(parts) for parts in zip(first, last, strict=True))
    assert got.residuals.n == 7
    torch.testing.assert_close(got.moments["0"].scatter_hh, run(mlp(), whole).moments["0"].scatter_hh)


def test_no_rows_at_all_are_an_error():
    with pytest.raises(DataError, match="data: no rows in any batch; expected at least one"):
        run(mlp(), [pair(0)])


def test_the_first_output_that_is_not_finite_is_placed_and_leaves_the_error_undefined():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            out = self.fc(x)
            out[x[:, 0] > 100, 1] = math.inf
            return out

    x, y = pair(10)
    x[6, 0] = x[8, 0] = 1000
    watched = run(Breaks(), (x, y))
    assert watched.fault == "first at row 6, position 1"
    assert math.isnan(watched.model_mse)
    assert math.isnan(watched.model_r2)
    assert list(watched.moments) == ["fc"]  # its input is sound
    assert float(watched.residuals.target_covariance.trace()) > 0


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float32, 1e300), (torch.float16, 1e5), (torch.bfloat16, 1e300)]
)
def test_an_input_too_large_for_the_network_s_own_type_is_located(dtype, value):
    x, y = pair(10)
    x = x.double()
    x[6, 1] = x[8, 0] = value
    kind = str(dtype).removeprefix("torch.")
    message = rf"^data: inputs are too large for {kind}, .* own type \(first at row 6, position 1\): scale"
    for size in (10, 4):
        batches = [({"x": a}, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
        for data in ((x, y), list(zip(x.split(size), y.split(size), strict=True)), batches):
            with pytest.raises(DataError, match=message):
                run(Named(dtype), data)
    assert run(Named(torch.float64), (x, y)).fault is None


class Named(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.fc = nn.Linear(3, 2, dtype=dtype)

    def forward(self, x):
        return self.fc(x)


@pytest.mark.parametrize(
    ("size", "dtype", "precision"),
    [(1e200, torch.float64, "exact"), (1e30, torch.float32, "fast")],
)
def test_activations_too_large_to_be_squared_are_a_reason_not_a_number(size, dtype, precision):
    model = nn.Sequential(nn.Linear(3, 4, dtype=dtype), nn.Linear(4, 2, dtype=dtype))
    model[0].weight.data *= size
    model[1].weight.data *= 0
    x, y = pair()
    watched = run(model, (x.to(dtype), y), precision=precision)
    assert list(watched.moments) == ["0"]
    kind = {"exact": "float64", "fast": "float32: --precision exact goes further"}[precision]
    assert watched.skipped == {"1": f"its activations are too large to be squared in {kind}"}


@pytest.mark.parametrize(
    ("size", "dtype", "precision"),
    [(1e-160, torch.float64, "exact"), (1e-200, torch.float64, "exact"), (1e-20, torch.float32, "fast")],
)
def test_activations_too_small_to_be_squared_are_a_reason_not_a_number(size, dtype, precision):
    model = nn.Sequential(nn.Linear(3, 4, dtype=dtype), nn.Linear(4, 2, dtype=dtype))
    for parameter in model[0].parameters():
        parameter.data *= size
    x, y = pair()
    watched = run(model, (x.to(dtype), y), precision=precision)
    kind = {"exact": "float64", "fast": "float32: --precision exact goes further"}[precision]
    assert watched.skipped == {"1": f"its activations are too small to be squared in {kind}"}


def test_a_layer_that_is_exactly_dead_is_scored_as_such():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for parameter in model[0].parameters():
        parameter.data *= 0
    watched = run(model, pair())
    assert list(watched.moments) == ["0", "1"]


@pytest.mark.parametrize(("size", "word"), [(1e160, "large"), (1e-160, "small"), (1e-200, "small")])
def test_targets_that_cannot_be_squared_are_an_error_not_constant(size, word):
    x, y = pair()
    with pytest.raises(DataError, match=f"^data: targets are too {word} to be squared in float64; expected"):
        run(nn.Linear(3, 2), (x, y.double() * size))


def test_errors_too_large_to_be_squared_are_undefined_and_the_layers_stay():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    model[1].weight.data *= 1e160
    watched = run(model, pair())
    assert list(watched.moments) == ["0", "1"]
    assert math.isnan(watched.model_mse)
    assert watched.fault is None


def test_a_mask_that_leaves_no_token_anywhere_is_a_reason_under_tokens_pooling():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, mask):
            return self.head((self.a(x) * mask[..., None]).sum(1))

    batch = ({"x": torch.randn(5, 2, 3), "mask": torch.zeros(5, 2)}, torch.randn(5, 2))
    watched = run(Masked(), [batch], pooling="tokens")
    assert watched.skipped == {"a": "the mask leaves no token in any row"}


def test_a_shared_layer_leaves_nothing_of_its_first_call():
    shared = nn.Linear(3, 3)
    watched = run(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2)), pair())
    assert list(watched.moments) == ["3"]
    assert list(watched.skipped) == ["0"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_are_given_to_the_network_in_its_own_precision(dtype):
    x, y = pair()
    model = mlp().to(dtype)
    watched = run(model, (x, y))
    h = x.to(dtype).double().numpy()
    np.testing.assert_allclose(
        watched.moments["0"].feature_covariance.numpy(), np.cov(h.T, bias=True), rtol=1e-9
    )
    with torch.no_grad():
        out = model(x.to(dtype)).double()
    assert watched.model_mse == pytest.approx(float((out - y).square().mean()), rel=1e-6)


def test_whole_numbers_stay_whole():
    model = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2))
    watched = run(model, [(torch.randint(0, 7, (10, 2)), torch.randn(10, 2))])
    assert list(watched.moments) == ["2"]


# ------------------------------------------------------------------------- the machine's settings


def test_threads_are_set_for_the_pass_and_put_back():
    used = torch.get_num_threads()
    with prepared(mlp(), CPU, used + 1):
        assert torch.get_num_threads() == used + 1
    assert torch.get_num_threads() == used
    with prepared(mlp(), CPU, None):
        assert torch.get_num_threads() == used


@pytest.fixture
def tf32_on():
    """Both of the older flags on, as in many training scripts."""
    owners = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [owner.allow_tf32 for owner in owners]
    for owner in owners:
        owner.allow_tf32 = True
    yield
    for owner, value in zip(owners, before, strict=True):
        owner.allow_tf32 = value


def stopped_inside(model, threads=None):
    with prepared(model, CPU, threads):
        torch.rand(1)
        raise KeyboardInterrupt


@pytest.mark.usefixtures("tf32_on")
def test_everything_is_put_back_after_an_interruption():
    model = mlp()
    used, drawn = torch.get_num_threads(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        stopped_inside(model, used + 1)
    assert torch.get_num_threads() == used
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.usefixtures("tf32_on")
def test_everything_is_put_back_where_the_model_cannot_move():
    class Stuck(nn.Linear):
        def to(self, *_, **__):
            raise RuntimeError("out of memory")

    used = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="out of memory"):
        stopped_inside(Stuck(3, 2), used + 1)
    assert torch.get_num_threads() == used
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.usefixtures("tf32_on")
def test_tf32_is_off_during_the_pass_and_as_it_was_afterwards(given):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    matmul.allow_tf32 = cudnn.allow_tf32 = given
    with prepared(mlp(), CPU, None):
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (given, given)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has only the older flags")
def test_the_newer_precision_flags_are_honoured_where_the_user_set_them():
    owners = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    before = [owner.fp32_precision for owner in owners]
    try:
        for owner in owners:
            owner.fp32_precision = "tf32"
        with prepared(mlp(), CPU, None):
            assert [owner.fp32_precision for owner in owners] == ["ieee"] * 3
        assert [owner.fp32_precision for owner in owners] == ["tf32"] * 3
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.fp32_precision = value


def test_the_model_goes_to_the_device_and_comes_home():
    class Travels(nn.Linear):
        places: list[torch.device]

        def to(self, device):
            self.places.append(device)
            return self

    model = Travels(3, 2)
    model.places = []
    with prepared(model, torch.device("meta"), None):
        assert model.places == [torch.device("meta")]
    assert model.places == [torch.device("meta"), CPU]


def test_a_network_without_tensors_has_no_home_to_go_to():
    with prepared(nn.ReLU(), CPU, None):
        pass


def test_what_is_not_a_tensor_is_given_to_the_network_as_it_is():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x, options):
            return self.fc(x[0]) * options.scale

    x, y = pair()
    watched = run(Scaled(), [({"x": [x], "options": SimpleNamespace(scale=2)}, y)])
    assert list(watched.moments) == ["fc"]
