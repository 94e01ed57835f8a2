"""What makes a result doubtful is said: another network than the trained one, layers left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import stack
from runs import a_layer
from torch import nn

from nrc_probe import analyze
from nrc_probe.doubts import refit_doubts, with_onset_note
from nrc_probe.layers import Skipped

HOPPER = Path(__file__).parent.parent / "fixtures" / "hopper"
FIXTURES = sorted(path.name for path in HOPPER.glob("*.safetensors"))


def rows(n: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    noise = 0.1 * torch.randn(n, 2, generator=generator)
    y = torch.stack([(x[:, 0] * x[:, 1]).sin() + x[:, 2], x[:, 3] ** 2 - x[:, 4]], 1) + noise
    return x, (y - y.mean(0)) / y.std(0)


def fitted(*between: type[nn.Module], steps: int = 400) -> nn.Module:
    """A small network trained on `rows`, for a second or two."""
    torch.manual_seed(0)
    model = nn.Sequential(*stack([6, 32, 32, 2], *(as_module(kind) for kind in between)))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, y = rows()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def as_module(kind: type[nn.Module]):
    return kind if kind in (nn.LayerNorm, nn.ReLU) else lambda _width: kind()


def read_as(model: nn.Module, activation: str | None, folder: Path):
    """The result of the model's tensors alone, with what is said of its activation."""
    path = folder / "m.pth"
    torch.save(model.state_dict(), path)
    return analyze(path, rows(), activation=activation)


@pytest.mark.parametrize("between", [(nn.LayerNorm, nn.GELU), (nn.GELU,), (nn.Tanh,)])
def test_a_network_read_with_another_activation_is_warned_about(between, tmp_path):
    model = fitted(*between)
    (warning,) = read_as(model, None, tmp_path).warnings
    assert "undertrained, trained with dropout or for another loss" in warning
    assert "read here with a wrong activation, architecture or standardisation" in warning
    assert read_as(model, between[-1].__name__.lower(), tmp_path).warnings == ()


def test_the_warning_gives_both_numbers(tmp_path):
    result = read_as(fitted(nn.LayerNorm, nn.GELU), "relu", tmp_path)
    (warning,) = result.warnings
    assert 0.5 < result.model_r2 < result.layers[-1].nrc4_r2 - 0.02
    assert warning.startswith("a linear map of 6's input reaches R² 0.9")
    assert f", the network {result.model_r2:.3f}: undertrained" in warning


def test_a_network_after_a_few_steps_is_called_undertrained(tmp_path):
    result = read_as(fitted(nn.ReLU, steps=20), "relu", tmp_path)
    assert any("undertrained" in warning for warning in result.warnings)


@pytest.mark.parametrize("name", FIXTURES)
def test_real_networks_trained_to_their_end_raise_no_doubt(name):
    assert analyze(HOPPER / name).warnings == ()


def probed(r2: float, kept: int = 20):
    return [a_layer("fc1", nrc4_r2=0.99), a_layer("head", nrc4_r2=r2, nrc4_rank=kept)]


def test_both_a_gain_and_a_smaller_error_are_asked_for():
    assert list(refit_doubts(probed(0.95), 10**6, 0.90))
    assert not list(refit_doubts(probed(0.9990), 10**6, 0.9950))  # near 1, where a trained one lies too
    assert not list(refit_doubts(probed(0.52), 10**6, 0.45))  # a strong weight decay looks like this


def test_parameters_as_many_as_rows_prove_nothing():
    assert not list(refit_doubts(probed(1.0, kept=99), 100, 0.5))
    assert not list(refit_doubts(probed(0.9, kept=80), 100, 0.5))
    assert list(refit_doubts(probed(0.9, kept=10), 100, 0.5))


def test_what_predicts_no_better_than_the_mean_is_left_to_its_own_warning():
    assert not list(refit_doubts(probed(0.9), 10**6, -1.0))
    assert not list(refit_doubts(probed(0.9), 10**6, float("nan")))
    assert not list(refit_doubts([], 10**6, 0.5))


def noted(*unscored: str, order: str = "a b c d e") -> tuple[str, ...]:
    layers = [a_layer("a"), a_layer("b", 0.1), a_layer("d", 0.1, notes=("cut",))]
    skipped = [Skipped(name, "Linear", "not chosen by --layers") for name in unscored]
    first, collapsed, last = with_onset_note(layers, skipped, order.split())
    assert (first.notes, last.notes) == ((), ("cut",))
    return collapsed.notes


def test_the_first_collapsed_layer_says_which_layers_after_it_were_not_scored():
    assert noted("c", "e") == ("first collapsed of the scored layers; of those after it, not scored: c, e",)
    assert noted(*"efghij", order="a b c d")[0].endswith(
        ": e, f, g, h and 2 more"
    )  # their place is not known
    assert noted() == ()


def test_layers_left_out_before_the_collapse_are_no_matter():
    assert noted("a0", order="a0 a b d") == ()
    assert with_onset_note([a_layer("a")], [Skipped("b", "Linear", "")], ["a", "b"]) == (a_layer("a"),)


@pytest.mark.parametrize(
    ("options", "said"), [({"layers": ["layers.[0-8]"]}, "layers.10, layers.12, layers.14")]
)
def test_layers_that_options_leave_out_are_named_in_the_result(options, said):
    result = analyze(HOPPER / "wd_1e-3.safetensors", limit=1000, **options)
    (layer,) = (layer for layer in result.layers if layer.name == result.first_collapsed_layer)
    assert layer.notes[-1].endswith(f"not scored: {said}")
