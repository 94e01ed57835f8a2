"""MLPs rebuilt from names and shapes, against the modules whose tensors they are given."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Named, assert_rebuilt, network_of, saved, stack, trained
from torch import Tensor, nn

from nrc_probe.architecture import ACTIVATIONS, build_network
from nrc_probe.errors import ArchitectureError
from nrc_probe.spec import ModelSpec

# --- order and names ---


def test_twelve_layers_in_lexical_order_run_in_natural_order():
    class Paper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(*stack([8] * 12 + [8], nn.ReLU, bias=False))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    network = assert_rebuilt(Paper(), torch.randn(5, 8))
    linears = [n for n, m in network.module.named_modules() if isinstance(m, nn.Linear)]
    assert linears == [f"layers.{2 * place}" for place in range(12)]
    assert network.summary == "MLP 8-8x11-8, ReLU (assumed), no biases"


def test_the_2024_naming_runs_feature_map_then_w():
    features = nn.Sequential(*stack([11, 16, 16, 16], nn.ReLU), nn.ReLU())
    model = Named({"feature_map": features, "W": nn.Linear(16, 3, bias=False)}, "feature_map W")
    network = assert_rebuilt(model, torch.randn(5, 11))
    assert network.summary == "MLP 11-16x3-3, ReLU (assumed), 3 with a bias"


def test_numbered_layers_run_in_the_order_of_their_numbers():
    names = [f"fc{place}" for place in range(1, 12)]
    modules = {name: nn.Linear(6, 6) for name in names}
    assert_rebuilt(Named(modules, " relu ".join(names)), torch.randn(5, 6))


def test_named_groups_run_in_the_order_in_which_their_widths_meet():
    hidden = nn.ModuleList([nn.Linear(9, 9), nn.Linear(9, 9)])
    parts = {"output": nn.Linear(9, 2), "input": nn.Linear(4, 9), "hidden": hidden}
    model = Named(parts, "input relu hidden.0 relu hidden.1 relu output")
    network = assert_rebuilt(model, torch.randn(5, 4))
    assert len(network.assumptions) == 1


def test_blocks_run_one_after_the_other_though_their_parts_share_names():
    blocks = nn.ModuleList(
        nn.ModuleDict({"down": nn.Linear(7, 7), "after": nn.Linear(7, 7)}) for _ in range(2)
    )
    run = "blocks.0.after relu blocks.0.down relu blocks.1.after relu blocks.1.down relu head"
    model = Named({"blocks": blocks, "head": nn.Linear(7, 1)}, run)
    network = assert_rebuilt(model, torch.randn(5, 7))
    order = "blocks.0.after, blocks.0.down, blocks.1.after, blocks.1.down, head"
    assert any(line.endswith(f"allow others: {order}.") for line in network.assumptions)


def test_fourteen_names_without_numbers_run_as_their_widths_meet():
    parts = {name: nn.Linear(width, width + 1) for width, name in enumerate("zampbtcdeghikj", 3)}
    network = assert_rebuilt(Named(parts, " relu ".join(parts)), torch.randn(5, 3))
    assert len(network.assumptions) == 1


def test_equal_widths_leave_the_order_to_the_usual_words_and_say_so():
    parts = {name: nn.Linear(6, 6) for name in ("head", "hidden", "input")}
    network = assert_rebuilt(Named(parts, "input relu hidden relu head"), torch.randn(5, 6))
    assert network.assumptions[1].endswith("allow others: input, hidden, head.")


def test_blocks_alike_run_alike_where_the_widths_decide_for_one_of_them():
    parts = [
        {"up": nn.Linear(4, 7), "down": nn.Linear(7, 7)},
        {"up": nn.Linear(7, 7), "down": nn.Linear(7, 7)},
    ]
    blocks = nn.ModuleList(nn.ModuleDict(part) for part in parts)
    run = "blocks.0.up relu blocks.0.down relu blocks.1.up relu blocks.1.down"
    network = assert_rebuilt(Named({"blocks": blocks}, run), torch.randn(5, 4))
    assert len(network.assumptions) == 1


def test_a_torch_file_keeps_its_own_order_where_it_chains():
    model = Named({"zeta": nn.Linear(5, 5), "alpha": nn.Linear(5, 5)}, "zeta relu alpha")
    assert len(assert_rebuilt(model, torch.randn(5, 5), fmt="torch").assumptions) == 1
    assert "alpha, zeta" in network_of(model).assumptions[1]


def test_layers_in_containers_of_their_own_are_found_under_their_names():
    encoder = nn.ModuleList(nn.ModuleDict({"linear": nn.Linear(a, b)}) for a, b in [(3, 6), (6, 2)])
    model = Named({"encoder": encoder}, "encoder.0.linear relu encoder.1.linear")
    network = assert_rebuilt(model, torch.randn(5, 3))
    assert isinstance(network.module.get_submodule("encoder.1.linear"), nn.Linear)


def test_neighbours_in_a_sequential_have_no_activation_between_them():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Linear(3, 2))
    assert_rebuilt(model, torch.randn(5, 4))


def test_a_list_of_linears_has_an_activation_behind_each_but_the_last():
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    assert_rebuilt(Named({"net": layers}, "net.0 relu net.1 relu net.2"), torch.randn(5, 4))


# --- norms ---


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_with_index_step_three_stands_before_the_activation(norm, bias):
    modules = stack([5, 8, 8, 2], norm, nn.ReLU, bias=bias)
    network = assert_rebuilt(nn.Sequential(OrderedDict(layers=nn.Sequential(*modules))), torch.randn(6, 5))
    kind = norm.__name__.removesuffix("1d")
    assert network.summary == f"MLP 5-8x2-2, {kind}, ReLU (assumed), {'biases' if bias else 'no biases'}"
    assert len(network.assumptions) == 1  # the gap in the indices shows where the activation stands


def test_a_gap_before_the_norm_puts_the_activation_there():
    assert_rebuilt(nn.Sequential(*stack([5, 8, 8, 2], nn.ReLU, nn.BatchNorm1d)), torch.randn(6, 5))


@pytest.mark.parametrize("place", [0, 2])
def test_dropout_before_the_norm_or_behind_the_activation_changes_nothing(place):
    make = [nn.BatchNorm1d, nn.ReLU]
    make.insert(place, lambda _: nn.Dropout())
    assert_rebuilt(nn.Sequential(*stack([5, 8, 8, 2], *make)), torch.randn(6, 5))


def test_norms_in_a_group_of_their_own_follow_the_linear_of_their_number():
    linears = {f"fc{k}": nn.Linear(a, b) for k, (a, b) in enumerate([(6, 6), (6, 6), (6, 6)], 1)}
    norms = {f"bn{k}": nn.BatchNorm1d(6) for k in (1, 2)}
    model = Named({**linears, **norms}, "fc1 bn1 relu fc2 bn2 relu fc3")
    for fmt in ("torch", "safetensors"):
        network = assert_rebuilt(model, torch.randn(5, 6), fmt=fmt)
        assert network.assumptions[1:] == (
            "Each norm is assumed to stand between its Linear and the activation.",
        )


@pytest.mark.parametrize("widths", [[4, 6, 7, 2], [6, 6, 6, 6]])
def test_the_kth_norm_follows_the_kth_linear_where_the_numbers_differ(widths):
    layers = nn.Sequential(*stack(widths, nn.ReLU))
    norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:3])
    model = Named(
        {"layers": layers, "norms": norms},
        "layers.0 norms.0 relu layers.2 norms.1 relu layers.4",
    )
    assert_rebuilt(model, torch.randn(5, widths[0]))


@pytest.mark.parametrize("name", ["input_norm", "bn"])
def test_a_norm_as_wide_as_the_input_alone_stands_before_the_first_linear(name):
    parts = {"fc1": nn.Linear(4, 6), "fc2": nn.Linear(6, 2), name: nn.BatchNorm1d(4)}
    assert_rebuilt(Named(parts, f"{name} fc1 relu fc2"), torch.randn(5, 4))


def test_an_input_norm_by_index_has_no_activation_behind_it():
    assert_rebuilt(nn.Sequential(nn.LayerNorm(4), *stack([4, 6, 2], nn.ReLU)), torch.randn(5, 4))


def test_a_norm_in_one_block_with_the_linear_after_it_follows_the_activation():
    blocks = nn.ModuleList(
        nn.ModuleDict({"norm": nn.LayerNorm(a), "linear": nn.Linear(a, b)})
        for a, b in [(4, 6), (6, 6), (6, 2)]
    )
    run = " relu ".join(f"blocks.{k}.norm blocks.{k}.linear" for k in range(3))
    network = assert_rebuilt(Named({"blocks": blocks}, run), torch.randn(5, 4))
    assert "A norm in one block with the Linear after it is assumed to follow" in network.assumptions[1]


def test_a_batchnorm_with_running_statistics_only_is_rebuilt():
    make = [lambda width: nn.BatchNorm1d(width, affine=False), nn.ReLU]
    assert_rebuilt(nn.Sequential(*stack([5, 8, 2], *make)), torch.randn(6, 5))


def test_a_batchnorm_without_its_counter_keeps_the_checkpoints_names():
    model = trained(nn.Sequential(*stack([5, 8, 2], nn.BatchNorm1d, nn.ReLU)))
    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith("tracked")}
    network = build_network(saved(tensors), ModelSpec()).module.eval()
    assert network.state_dict().keys() == tensors.keys()
    torch.testing.assert_close(network(torch.ones(2, 5)), model(torch.ones(2, 5)))


def test_a_norm_without_bias_is_a_layernorm_and_says_so():
    make = [lambda width: nn.LayerNorm(width, bias=False), nn.ReLU]
    network = assert_rebuilt(nn.Sequential(*stack([5, 8, 2], *make)), torch.randn(6, 5))
    assert network.assumptions[-1].startswith("A norm without bias is assumed to be a LayerNorm")


# --- activations, precision, copies ---


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_can_be_asked_for_and_is_then_no_assumption(name):
    model = nn.Sequential(*stack([4, 8, 8, 2], lambda _: ACTIVATIONS[name]()))
    network = assert_rebuilt(model, torch.randn(5, 4), activation=name)
    assert network.assumptions == ()
    assert type(ACTIVATIONS[name]()).__name__ in network.summary


def test_relu_is_assumed_and_the_option_that_changes_it_is_named():
    (line,) = network_of(nn.Sequential(*stack([4, 8, 2], nn.ReLU))).assumptions
    assert "assumed to be ReLU" in line
    assert "--activation" in line


def test_one_linear_is_a_linear_model_without_assumptions():
    network = assert_rebuilt(nn.Sequential(nn.Linear(4, 2)), torch.randn(5, 4))
    assert (network.summary, network.assumptions) == ("linear model 4-2, biases", ())


def test_a_bare_linear_is_itself():
    network = assert_rebuilt(nn.Linear(4, 2, bias=False), torch.randn(5, 4))
    assert isinstance(network.module, nn.Linear)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_keep_their_precision(dtype):
    model = nn.Sequential(*stack([4, 8, 2], nn.ReLU)).to(dtype)
    assert_rebuilt(model, torch.randn(5, 4, dtype=dtype))


def test_the_checkpoint_and_the_random_state_stay_as_they_are():
    checkpoint = saved(nn.Sequential(*stack([4, 8, 2], nn.BatchNorm1d, nn.ReLU)).state_dict())
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    random_state = torch.get_rng_state()
    network = build_network(checkpoint, ModelSpec()).module.train()
    assert torch.equal(torch.get_rng_state(), random_state)
    network(torch.randn(9, 4))
    for parameter in network.parameters():
        parameter.data.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.tensors.items())


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(1, 12),
    widths=st.lists(st.integers(2, 5), min_size=13, max_size=13),
    bias=st.booleans(),
    norm=st.sampled_from([None, nn.BatchNorm1d, nn.LayerNorm]),
    naming=st.sampled_from(["sequential", "pairs", "blocks", "head"]),
    fmt=st.sampled_from(["torch", "safetensors"]),
)
def test_any_mlp_is_rebuilt_from_its_names_and_shapes(depth, widths, bias, norm, naming, fmt):
    widths = widths[: depth + 1]
    make = [norm, nn.ReLU] if norm else [nn.ReLU]
    modules = stack(widths, *make, bias=bias)
    model = nn.Sequential(OrderedDict(_names(modules, naming)))
    if naming != "sequential":
        model = _nested(model)
    assert_rebuilt(model, torch.randn(3, widths[0]), fmt=fmt)


def _names(modules: list[nn.Module], naming: str) -> list[tuple[str, nn.Module]]:
    """Names with "_" for the dots of containers: `add_module` takes no dots."""
    named, layer = [], 0
    for place, module in enumerate(modules):
        layer += isinstance(module, nn.Linear)
        kind = {nn.Linear: "fc", nn.ReLU: "act"}.get(type(module), "bn")
        last = "head" if place == len(modules) - 1 else f"body_{place}"
        names = {"sequential": f"{place}", "pairs": f"{kind}{layer}", "head": last}
        named.append(({**names, "blocks": f"blocks_{layer}_{kind}"}[naming], module))
    return named


def _nested(model: nn.Sequential) -> Named:
    """`model` with its modules inside containers, split at "_"."""
    root = Named({}, " ".join(name.replace("_", ".") for name, _ in model.named_children()))
    for name, module in model.named_children():
        parent: nn.Module = root
        *containers, last = name.split("_")
        for container in containers:
            if container not in dict(parent.named_children()):
                parent.add_module(container, nn.Module())
            parent = parent.get_submodule(container)
        parent.add_module(last, module)
    return root


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"norm.weight": torch.ones(4), "norm.bias": torch.ones(4)}, "no Linear among the 2 tensors"),
        (
            {"a.weight": torch.ones(3, 4), "a.bias": torch.ones(4)},
            r"'a\.bias' of shape \(4,\) is of neither a Linear nor a norm",
        ),
    ],
)
def test_tensors_that_are_of_no_mlp_are_refused(tensors, words):
    with pytest.raises(ArchitectureError, match=words):
        build_network(saved(tensors), ModelSpec(architecture="mlp"))
