"""What load_checkpoint promises about files from anybody: found, named, refused, never run."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from nrc_probe.checkpoint import Checkpoint, load_checkpoint
from nrc_probe.checkpoint.training import Training, read_training
from nrc_probe.errors import CheckpointError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2))


def weights() -> dict[str, Tensor]:
    return dict(network().state_dict())


def saved(path: Path, content: object, *, zipped: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    """A safetensors file with any header, right or wrong."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def sharded(folder: Path, names: tuple[str, str] = ("a.safetensors", "b.safetensors")) -> Path:
    """The index of `weights()` in two files, its tensors alternating between them."""
    tensors = weights()
    places = {name: names[number % 2] for number, name in enumerate(tensors)}
    for place in names:
        held = {name: tensor for name, tensor in tensors.items() if places[name] == place}
        save_file(held, folder / place, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 216}, "weight_map": places}))
    return index


def assert_same(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    assert set(checkpoint.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensors[name], tensor), name


def refusal(path: Path, state_key: str | None = None, *, unsafe_pickle: bool = False) -> str:
    """The sentence load_checkpoint refuses `path` with, less the path it begins with."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, state_key=state_key, unsafe_pickle=unsafe_pickle)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


# ---- the formats


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_torch_save_comes_back_in_its_own_order(
    tmp_path: Path, suffix: str, zipped: bool
) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / f"net{suffix}", weights(), zipped=zipped))
    assert_same(checkpoint, weights())
    assert list(checkpoint.tensors) == list(weights())
    assert (checkpoint.format, checkpoint.notes) == ("torch", ())


def test_safetensors_come_back_with_their_metadata(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "net.safetensors", metadata={"author": "us"})
    checkpoint = load_checkpoint(str(tmp_path / "net.safetensors"))
    assert_same(checkpoint, weights())
    assert checkpoint.format == "safetensors"
    assert checkpoint.metadata == {"author": "us"}


def test_shards_come_back_as_one_network_in_the_order_of_the_index(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(sharded(tmp_path))
    assert_same(checkpoint, weights())
    assert list(checkpoint.tensors) == list(weights())
    assert checkpoint.format == "safetensors-sharded"
    assert checkpoint.metadata == {"format": "pt", "total_size": "216"}


def test_the_content_decides_and_a_name_that_lies_is_noted(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "net.pt")
    assert load_checkpoint(tmp_path / "net.pt").notes == (
        "the file is named '.pt', but its content is safetensors",
    )
    assert load_checkpoint(saved(tmp_path / "net.safetensors", weights())).notes == (
        "the file is named '.safetensors', but its content is torch",
    )


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", weights())
    assert load_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_shards_covers_the_index_and_then_each_shard(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    parts = [index, tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    expected = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    assert load_checkpoint(index).sha256 == expected


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_changing_a_loaded_tensor_leaves_the_file_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file(weights(), path) if name.endswith("safetensors") else saved(path, weights())
    before = path.read_bytes()
    load_checkpoint(path).tensors["0.weight"].add_(1)
    assert path.read_bytes() == before


def test_sparse_complex_and_quantised_tensors_are_left_as_they_are(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    content = {
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.ones(2, dtype=torch.complex64),
        "quantised": quantised,
    }
    tensors = load_checkpoint(saved(tmp_path / "odd.pt", content)).tensors
    assert tensors["sparse"].is_sparse
    assert tensors["complex"].is_complex()
    assert tensors["quantised"].is_quantized


def _nested() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.zeros(1).expand(10**6, 10**6), "4 bytes that claim to be 4000000000000"),
        (lambda: torch.empty(3, 3, device="meta"), "no values (it was saved from the meta device)"),
        (_nested, "a nested tensor"),
    ],
)
def test_a_tensor_without_all_its_values_is_refused_before_it_is_read(
    make: Callable[[], Tensor], what: str, zipped: bool, tmp_path: Path
) -> None:
    if make is _nested and not zipped:
        pytest.skip("torch writes no sizes of nested tensors into the older format")
    content = {"net": {"0.weight": torch.ones(3, 3), "2.weight": make()}}
    path = saved(tmp_path / "net.pt", content, zipped=zipped)
    assert refusal(path) == f"tensor '2.weight' holds {what}; expected a tensor with all its values"


def test_a_small_constant_and_a_shared_weight_are_read(tmp_path: Path) -> None:
    shared = torch.ones(4, 4)
    content = {"0.weight": shared, "2.weight": shared.T, "2.bias": torch.zeros(1).expand(4)}
    assert_same(load_checkpoint(saved(tmp_path / "net.pt", content)), content)


def test_parameters_come_back_without_a_gradient(tmp_path: Path) -> None:
    content = {"w": nn.Parameter(torch.ones(2, 2))}
    assert not load_checkpoint(saved(tmp_path / "net.pt", content)).tensors["w"].requires_grad


# ---- the state dict


USUAL = ("model", "net", "state_dict", "model_state_dict", "network", "module", "params", "weights")


@pytest.mark.parametrize("key", [*USUAL, "ema", "ema_state_dict", "policy"])
def test_a_nested_state_dict_is_found(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path / "net.pth", {"epoch": 7, key: weights(), "loss": torch.tensor(0.5)})
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint, weights())
    assert checkpoint.training.epoch == 7


def test_a_state_dict_two_levels_down_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", {"checkpoint": {"net": weights(), "epoch": 3}, "step": 40})
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint, weights())
    assert checkpoint.training == Training(epoch=3, step=40)


@pytest.mark.parametrize("average", ["ema", "ema_state_dict", "model_ema", "swa_model"])
def test_the_plain_model_comes_before_its_average(tmp_path: Path, average: str) -> None:
    other = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    path = saved(tmp_path / "net.pt", {average: other, "model": weights()})
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint, weights())
    assert checkpoint.notes == (
        f"the tensors are those under 'model'; also there: {average} (--state-key chooses)",
    )


def test_a_plain_model_of_any_name_comes_before_an_average(tmp_path: Path) -> None:
    other = weights() | {"more": torch.ones(99)}
    path = saved(tmp_path / "net.pt", {"ema": other, "policy": weights()})
    assert_same(load_checkpoint(path), weights())


def test_a_lone_average_is_taken_and_noted(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", {"ema": weights()})
    assert load_checkpoint(path).notes == ("only averaged weights are there: 'ema'",)


def test_state_key_chooses(tmp_path: Path) -> None:
    first, second = {"w": torch.zeros(2, 2)}, {"w": torch.ones(2, 2)}
    path = saved(tmp_path / "net.pt", {"model": first, "agents": {"critic": second}})
    assert_same(load_checkpoint(path, state_key="agents.critic"), second)
    assert_same(load_checkpoint(path, state_key="model"), first)


def test_an_unknown_state_key_is_answered_with_the_candidates(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", {"model": weights(), "ema": weights()})
    assert refusal(path, "nett") == "no state dict under 'nett'; it has: model, ema"


def test_a_state_key_for_a_flat_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", weights())
    assert refusal(path, "net").startswith("no state dict under 'net': the file is itself one")
    save_file(weights(), tmp_path / "net.safetensors")
    assert refusal(tmp_path / "net.safetensors", "net").startswith("no state dict under 'net': ")


def optimizer_state(**options: float) -> dict[str, object]:
    """What a real Adam leaves after a step."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), **options)  # type: ignore[arg-type]
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return dict(optimizer.state_dict())


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "opt", "anything"])
def test_the_state_of_an_optimizer_is_not_a_state_dict(tmp_path: Path, key: str) -> None:
    text = refusal(saved(tmp_path / "net.pt", {"epoch": 1, key: optimizer_state()}))
    assert text == f"expected a state dict, got a dict of epoch, {key} without one"


def test_what_stands_with_parameter_groups_is_not_a_state_dict(tmp_path: Path) -> None:
    kept = {"state": {"momentum": torch.ones(9, 9)}, "param_groups": [], "scale": torch.ones(1)}
    text = refusal(saved(tmp_path / "net.pt", {"muon": kept}))
    assert text == "expected a state dict, got a dict of muon without one"
    assert refusal(saved(tmp_path / "net.pt", kept)).endswith("state, param_groups, scale without one")


def test_a_dict_of_single_numbers_is_not_a_state_dict(tmp_path: Path) -> None:
    content = weights() | {"metrics": {"loss": torch.tensor(0.3)}}
    assert_same(load_checkpoint(saved(tmp_path / "net.pt", content)), weights())


def test_averages_that_an_optimizer_keeps_by_name_are_not_a_state_dict(tmp_path: Path) -> None:
    moments = {"exp_avg": torch.ones(9, 9), "exp_avg_sq": torch.ones(9, 9)}
    path = saved(tmp_path / "net.pt", {"inner": {"w": moments}, "net": weights()})
    assert_same(load_checkpoint(path), weights())
    assert load_checkpoint(path).notes == ()


def test_extra_state_and_metadata_are_ignored_with_a_note(tmp_path: Path) -> None:
    state: OrderedDict[str, object] = OrderedDict(weights())
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    state["0._extra_state"] = {"amax": torch.ones(3)}
    state["remark"] = "best"
    checkpoint = load_checkpoint(saved(tmp_path / "net.pt", state))
    assert_same(checkpoint, weights())
    assert checkpoint.notes == ("not tensors, so ignored: 0._extra_state, remark",)


@pytest.mark.parametrize(
    ("content", "what"),
    [({}, "an empty dict"), ([1, 2], "a list"), ({"a": 1}, "a dict of a"), (3.5, "a float")],
)
def test_a_file_without_tensors_is_refused(tmp_path: Path, content: object, what: str) -> None:
    text = refusal(saved(tmp_path / "net.pt", content))
    assert text == f"expected a state dict, got {what} without one"


def test_a_key_of_two_lines_leaves_the_error_on_one(tmp_path: Path) -> None:
    text = refusal(saved(tmp_path / "net.pt", {"a\nb": 1}))
    assert text == "expected a state dict, got a dict of a b without one"


def test_safetensors_without_tensors_are_refused(tmp_path: Path) -> None:
    text = refusal(safetensors(tmp_path / "net.safetensors", {}))
    assert text == "expected the tensors of a network, got none"


# ---- names


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
def test_the_marks_of_compile_and_data_parallel_are_stripped(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in weights().items()}
    checkpoint = load_checkpoint(saved(tmp_path / "net.pt", state))
    assert_same(checkpoint, weights())
    marks = sorted({f"{part}." for part in prefix.split(".") if part})
    assert checkpoint.notes == (f"stripped from the names: {', '.join(marks)}",)


def test_a_compiled_part_of_a_network_gets_its_plain_name(tmp_path: Path) -> None:
    state = {"encoder._orig_mod.0.weight": torch.ones(2, 2), "head.weight": torch.ones(1, 2)}
    checkpoint = load_checkpoint(saved(tmp_path / "net.pt", state))
    assert list(checkpoint.tensors) == ["encoder.0.weight", "head.weight"]


@pytest.mark.parametrize("prefix", ["model.", "net.", "my_module."])
def test_other_prefixes_are_left_alone(tmp_path: Path, prefix: str) -> None:
    state = {prefix + name: tensor for name, tensor in weights().items()}
    checkpoint = load_checkpoint(saved(tmp_path / "net.pt", state))
    assert_same(checkpoint, state)
    assert checkpoint.notes == ()


def test_module_that_only_some_names_carry_is_left_alone(tmp_path: Path) -> None:
    state = {"module.w": torch.ones(2, 2), "head.w": torch.ones(1, 2)}
    assert_same(load_checkpoint(saved(tmp_path / "net.pt", state)), state)


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    state = {"_orig_mod.fc.weight": torch.ones(2, 2), "fc.weight": torch.ones(2, 2)}
    assert refusal(saved(tmp_path / "net.pt", state)).startswith(
        "two tensors are called 'fc.weight' once the marks"
    )


def test_an_averaged_model_loses_its_prefix_and_its_counter(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(network())
    checkpoint = load_checkpoint(saved(tmp_path / "net.pt", averaged.state_dict()))
    assert_same(checkpoint, weights())
    assert checkpoint.notes == (
        "stripped from the names: module.",
        "'n_averaged' counts averaged models, so it is ignored",
    )


# ---- what training left


def lightning(**more: object) -> dict[str, object]:
    """A checkpoint of the shape that Lightning's Trainer writes."""
    return {
        "epoch": 11,
        "global_step": 340,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in weights().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 12}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [optimizer_state(lr=0.01, weight_decay=0.0005)],
        "lr_schedulers": [{"last_epoch": 11, "_last_lr": [0.01]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"weight_decay": 0.25, "lr": 0.5, "width": 4},
    } | more


def test_a_lightning_checkpoint_gives_its_network_and_its_training(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "last.ckpt", lightning()))
    assert set(checkpoint.tensors) == {f"model.{name}" for name in weights()}
    assert checkpoint.training == Training(11, 340, 0.0005, 0.01)
    assert checkpoint.notes == (
        "weight decay 0.0005 was taken from the optimizer; the saved hyperparameters say 0.25",
        "learning rate 0.01 was taken from the optimizer; the saved hyperparameters say 0.5",
    )


def test_hyper_parameters_that_the_optimizer_bears_out_need_no_word(tmp_path: Path) -> None:
    agreeing = lightning(hyper_parameters={"weight_decay": 0.0005, "optimizer": {"lr": 0.01}})
    assert load_checkpoint(saved(tmp_path / "last.ckpt", agreeing)).notes == ()


def test_hyper_parameters_speak_where_no_optimizer_was_saved(tmp_path: Path) -> None:
    path = saved(tmp_path / "last.ckpt", lightning(optimizer_states=[]))
    assert load_checkpoint(path).training == Training(11, 340, 0.25, 0.5)


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict"])
def test_rates_come_from_the_parameter_groups(tmp_path: Path, key: str) -> None:
    optimizer = optimizer_state(lr=0.02, weight_decay=0.003)
    path = saved(tmp_path / "net.pt", {"net": weights(), key: optimizer, "args": {"lr": 9.0}})
    assert load_checkpoint(path).training == Training(None, None, 0.003, 0.02)


def test_groups_that_disagree_give_the_largest_weight_decay_and_a_note(tmp_path: Path) -> None:
    groups = [{"weight_decay": 0.0, "lr": 0.1}, {"weight_decay": 0.005, "lr": 0.1}]
    optimizer = {"state": {}, "param_groups": groups}
    checkpoint = load_checkpoint(saved(tmp_path / "net.pt", {"model": weights(), "optimizer": optimizer}))
    assert checkpoint.training.weight_decay == 0.005
    assert checkpoint.notes == (
        "the parameter groups disagree on weight decay (0, 0.005): the largest counts",
    )


def test_a_schedule_does_not_hide_the_learning_rate_it_began_with(tmp_path: Path) -> None:
    optimizer = {"state": {}, "param_groups": [{"lr": 1e-6, "initial_lr": 0.1}]}
    path = saved(tmp_path / "net.pt", {"model": weights(), "optimizer": optimizer})
    assert load_checkpoint(path).training.learning_rate == 0.1


@pytest.mark.parametrize("key", ["args", "config", "hparams"])
def test_saved_settings_are_read_but_their_epochs_are_a_plan(tmp_path: Path, key: str) -> None:
    settings = {"weight_decay": 5e-4, "lr": "0.1", "epoch": 1000}
    path = saved(tmp_path / "net.pt", {"net": weights(), key: settings})
    assert load_checkpoint(path).training == Training(None, None, 5e-4, 0.1)


def test_a_namespace_a_path_and_numpy_numbers_need_no_code(tmp_path: Path) -> None:
    content = {
        "net": weights(),
        "epoch": np.int64(12),
        "loss": np.float32(0.5),
        "rng": np.random.RandomState(0).get_state(),
        "args": argparse.Namespace(lr=np.float64(0.1), weight_decay=1e-4, out=Path("runs/a")),
    }
    checkpoint = load_checkpoint(saved(tmp_path / "net.pt", content))
    assert_same(checkpoint, weights())
    assert checkpoint.training == Training(12, None, 1e-4, 0.1)


def test_a_numpy_number_in_swapped_bytes_is_left_unread(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"net": weights(), "lr": np.float64(3)}, zipped=False)
    assert load_checkpoint(path).training.learning_rate == 3
    path.write_bytes(path.read_bytes().replace(b"X\x01\0\0\0<", b"X\x01\0\0\0>"))
    assert load_checkpoint(path).training.learning_rate is None


@pytest.mark.parametrize("key", ["step", "global_step", "iteration"])
def test_the_step_has_several_names(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path / "net.pt", {"net": weights(), key: torch.tensor(250)})
    assert load_checkpoint(path).training.step == 250


def test_safetensors_metadata_is_read(tmp_path: Path) -> None:
    said = {"epoch": "3", "step": "20", "weight_decay": "5e-4", "lr": "0.1"}
    save_file(weights(), tmp_path / "net.safetensors", metadata=said)
    assert load_checkpoint(tmp_path / "net.safetensors").training == Training(3, 20, 5e-4, 0.1)


def test_our_own_metadata_entry_comes_first(tmp_path: Path) -> None:
    own = json.dumps({"epoch": 4, "weight_decay": 0.01, "data": {"path": "train.npz"}})
    save_file(weights(), tmp_path / "n.safetensors", metadata={"nrc_probe": own, "epoch": "9"})
    assert load_checkpoint(tmp_path / "n.safetensors").training == Training(4, None, 0.01, None)


@pytest.mark.parametrize("own", ["{", "[1]", '"epoch"', "[" * 100_000])
def test_our_own_metadata_entry_may_be_garbage(tmp_path: Path, own: str) -> None:
    save_file(weights(), tmp_path / "n.safetensors", metadata={"nrc_probe": own})
    assert load_checkpoint(tmp_path / "n.safetensors").training == Training()


GARBAGE = [True, -1, float("nan"), float("inf"), "soon", None, [3], {}, 2.5, 10**400, b"3", 1j]
GARBAGE += [torch.ones(3), torch.tensor(True), torch.tensor(float("nan")), torch.tensor(1j)]
GARBAGE += [torch.ones(1).to_sparse_coo(), torch.empty(1, device="meta")]


@pytest.mark.parametrize("value", GARBAGE, ids=repr)
def test_an_epoch_that_is_no_count_is_silence(value: object) -> None:
    training, _ = read_training([{"epoch": value}], {}, Path("net.pt"))
    assert training.epoch in (None, 1)
    assert training.epoch is None or (isinstance(value, Tensor) and value.is_sparse)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "much", "1e999"])
def test_a_rate_that_is_no_rate_is_silence(value: object) -> None:
    said = {"optimizer": {"param_groups": [{"weight_decay": value, "lr": value}, "group"]}}
    assert read_training([said, {"args": {"lr": value}}], {}, Path("net.pt"))[0] == Training()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ("epoch", "step", "lr", "weight_decay", "optimizer", "param_groups", "args", "config", "meta")
)


@given(st.dictionaries(KEYS, ANYTHING | st.dictionaries(KEYS, ANYTHING)), st.text())
def test_no_garbage_crashes_the_reading_of_training(content: dict[str, object], own: str) -> None:
    training, _ = read_training([content], {"nrc_probe": own, "epoch": own}, Path("net.pt"))
    rates = (training.weight_decay, training.learning_rate)
    assert all(rate is None or 0 <= rate < float("inf") for rate in rates)
    assert training.epoch is None or (type(training.epoch) is int and training.epoch >= 0)


# ---- what the path says where the checkpoint is silent

PAPER = "batch512_lr0.10000_wd_0.00050_mom_0.90_epoch_1000"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{PAPER}/1000.pth", Training(1000, None, 0.0005, 0.1)),
        (f"{PAPER}/last.pth", Training(None, None, 0.0005, 0.1)),
        (f"{PAPER}/seed0/checkpoints/20.pt", Training(20, None, 0.0005, 0.1)),
        (f"{PAPER}/a/b/c/20.pt", Training(20)),
        ("epoch_12.pt", Training(12)),
        ("epoch=12-step=340.ckpt", Training(12, 340)),
        ("net_epoch12_wd5e-4.pt", Training(12, None, 5e-4)),
        ("epochs_100.pt", Training()),
        ("lr0.1.pth", Training(learning_rate=0.1)),
        ("wd_0.1/wd_0.2/net.pt", Training(weight_decay=0.2)),
        ("weight_decay=0.01,learning_rate=.5/net.pt", Training(None, None, 0.01, 0.5)),
        ("checkpoint-500/model.pt", Training(step=500)),
        ("crowd3_blr5.pt", Training()),
        ("9" * 100 + ".pt", Training()),
    ],
)
def test_the_path_speaks(tmp_path: Path, path: str, expected: Training) -> None:
    assert load_checkpoint(saved(tmp_path / "x" / path, weights())).training == expected


def test_the_name_of_a_shard_index_speaks_too(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    assert load_checkpoint(index.rename(tmp_path / "12.safetensors.index.json")).training.epoch == 12


def test_values_from_the_path_are_noted(tmp_path: Path) -> None:
    assert load_checkpoint(saved(tmp_path / PAPER / "1000.pth", weights())).notes == (
        "epoch 1000 was read from the path ('1000')",
        f"weight decay 0.0005 was read from the path ('{PAPER}')",
        f"learning rate 0.1 was read from the path ('{PAPER}')",
    )


def test_the_checkpoint_wins_over_the_path(tmp_path: Path) -> None:
    path = saved(tmp_path / "wd_0.5" / "1000.pth", {"net": weights(), "epoch": 3, "wd": 0.1})
    checkpoint = load_checkpoint(path)
    assert checkpoint.training == Training(3, None, 0.1)
    assert checkpoint.notes == ()


def test_a_relative_path_is_read_with_the_folders_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "wd_0.5" / "7.pt", weights())
    monkeypatch.chdir(tmp_path / "wd_0.5")
    assert load_checkpoint("7.pt").training == Training(7, None, 0.5)


def zipped_again(source: Path, target: Path, method: int) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return target


def test_an_archive_that_was_zipped_again_is_read_but_not_if_it_was_compressed(tmp_path: Path) -> None:
    net = saved(tmp_path / "net.pt", weights())
    assert_same(load_checkpoint(zipped_again(net, tmp_path / "b.pt", zipfile.ZIP_STORED)), weights())
    text = refusal(zipped_again(net, tmp_path / "c.pt", zipfile.ZIP_DEFLATED))
    assert text.startswith("'net/data.pkl' in it is compressed, which torch.save never does")


# ---- code


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_does_not_go_off(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "boom"
    content = {"net": weights(), "bomb": Bomb(target)}
    text = refusal(saved(tmp_path / "net.pt", content, zipped=zipped))
    assert text.startswith("the file needs code to open (")
    assert "which was not run" in text
    assert not target.exists()


def test_a_bare_pickle_bomb_does_not_go_off_even_if_unsafe(tmp_path: Path) -> None:
    target = tmp_path / "boom"
    (tmp_path / "net.pt").write_bytes(pickle.dumps(Bomb(target)))
    text = refusal(tmp_path / "net.pt", unsafe_pickle=True)
    assert text.endswith("as '.pt' says, got a pickle that torch.save did not write")
    assert not target.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_saved_module_is_refused_with_the_way_out(tmp_path: Path, zipped: bool, nested: bool) -> None:
    content = {"model": network(), "epoch": 5} if nested else network()
    assert refusal(saved(tmp_path / "net.pt", content, zipped=zipped)) == (
        "the file needs code to open (torch.nn.modules.container.Sequential), which was not run; "
        "save model.state_dict() instead, or add --unsafe-pickle if you trust the file"
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_saved_module_opens_when_the_user_says_so(tmp_path: Path, zipped: bool, nested: bool) -> None:
    content = {"model": network(), "epoch": 5} if nested else network()
    path = saved(tmp_path / "net.pt", content, zipped=zipped)
    checkpoint = load_checkpoint(path, unsafe_pickle=True)
    assert_same(checkpoint, weights())
    assert checkpoint.training.epoch == (5 if nested else None)


def test_torchscript_is_refused_unless_the_user_says_so(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network()), tmp_path / "net.pt")
    assert refusal(tmp_path / "net.pt").startswith("a TorchScript archive needs code; save")
    assert_same(load_checkpoint(tmp_path / "net.pt", unsafe_pickle=True), weights())


def test_code_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    saved(path, {"net": weights(), "bomb": Bomb(tmp_path)}, zipped=False)
    path.write_bytes(re.sub(rb"cpathlib[._a-z]*\n[A-Za-z.]*\n|cbuiltins\ngetattr\n",
                            b"cno_such_module\nThing\n", path.read_bytes()))  # fmt: skip
    text = refusal(path, unsafe_pickle=True)
    assert text == ("the file needs code that cannot be imported here: No module named 'no_such_module'")


# ---- files that are not what they should be


def test_a_missing_file_is_named_as_such(tmp_path: Path) -> None:
    assert refusal(tmp_path / "net.pt") == "there is no such file"


def test_a_folder_is_named_as_such(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith("expected a checkpoint file, got a folder; ")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pt")
    assert refusal(tmp_path / "net.pt") == "expected a checkpoint file, got a pipe; name a file"


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.safetensors.index.json"])
def test_an_empty_file_is_named_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert refusal(tmp_path / name).startswith("the file is empty (0 bytes)")


def test_a_file_that_may_not_be_read_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "net.pt", weights())

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)  # root may read any file: chmod shows nothing
    assert refusal(path) == "the file cannot be read: Permission denied"


def test_a_truncated_safetensors_file_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(weights(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    assert refusal(path) == (
        f"the file is truncated: its header promises {len(whole)} bytes, it has {len(whole) - 8}; "
        "save or copy it again"
    )


@pytest.mark.parametrize("kept", [5, 30])
def test_safetensors_cut_within_the_header_are_named_as_such(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "net.safetensors"
    save_file(weights(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    needed = 8 if kept < 8 else 8 + struct.unpack("<Q", whole[:8])[0]
    assert refusal(path).startswith(f"the file is truncated: its header needs {needed} bytes, it has {kept}")


def test_a_truncated_zip_is_named_as_such(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", weights())
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(path).startswith("the file is truncated: it opens as a zip archive")


def test_a_legacy_file_cut_anywhere_is_truncated_and_never_code(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", {"w": torch.ones(2)}, zipped=False)
    whole = path.read_bytes()
    for kept in range(16, len(whole)):
        path.write_bytes(whole[:kept])
        assert refusal(path).startswith("the file is truncated or broken: "), kept


@pytest.mark.parametrize("kept", [16, 300, -20])
@pytest.mark.parametrize("unsafe_pickle", [True, False])
def test_a_truncated_legacy_file_is_named_as_such(tmp_path: Path, kept: int, unsafe_pickle: bool) -> None:
    path = saved(tmp_path / "net.pt", weights(), zipped=False)
    path.write_bytes(path.read_bytes()[:kept])
    text = refusal(path, unsafe_pickle=unsafe_pickle)
    assert text.startswith("the file is truncated or broken: ")


def test_a_claim_of_a_million_million_elements_allocates_nothing(tmp_path: Path) -> None:
    size = 4 * 10**12
    entry = {"dtype": "F32", "shape": [10**12], "data_offsets": [0, size]}
    path = safetensors(tmp_path / "net.safetensors", {"w": entry})
    assert refusal(path).startswith("the file is truncated: its header promises 40000000000")
    entry["data_offsets"] = [0, 4]
    path = safetensors(tmp_path / "net.safetensors", {"w": entry}, b"0000")
    assert refusal(path).startswith("the safetensors file is broken: ")


def test_a_broken_safetensors_header_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", 4) + b"{abc")
    assert refusal(path).startswith("the safetensors file is broken: Error while deserializing")


def test_a_safetensors_header_that_ends_at_infinity_is_broken(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,1e400]}}'
    (tmp_path / "net.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert refusal(tmp_path / "net.safetensors").startswith("the safetensors file is broken: ")


FOREIGN = {
    "a text file": b"epoch,loss\n1,0.5\n",
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "a numpy array": b"\x93NUMPY\x01\x00" + bytes(50),
    "an HTML or XML page: the download went wrong": b"<!DOCTYPE html><html></html>",
    "a Git LFS pointer: run 'git lfs pull' to get the file itself": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    "bytes of no known format": bytes(range(40)),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("what", FOREIGN)
def test_another_format_is_named_and_so_is_the_suffix_that_lies(
    tmp_path: Path, what: str, suffix: str
) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(FOREIGN[what])
    assert refusal(path) == (
        "expected a checkpoint (safetensors, its shard index, or of torch.save), "
        f"as '{suffix}' says, got {what}"
    )


def test_a_file_of_another_suffix_is_not_called_a_lie(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert refusal(tmp_path / "notes.txt").endswith("or of torch.save), got a text file")


def test_a_numpy_archive_and_a_zip_are_told_from_a_checkpoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "net.npz", x=np.ones(3), y=np.ones(3))
    path = (tmp_path / "net.npz").rename(tmp_path / "net.pt")
    assert refusal(path).endswith("as '.pt' says, got a numpy .npz archive of x.npy, y.npy")


def test_an_hdf5_file_is_named_as_such(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "net.bin", "w") as file:
        file["x"] = np.ones(3)
    assert refusal(tmp_path / "net.bin").endswith("as '.bin' says, got an HDF5 file")


def outcome(path: Path) -> str:
    """The format `path` opens as, or the sentence it is refused with."""
    try:
        return load_checkpoint(path).format
    except CheckpointError as error:
        return str(error)


@given(st.data())
def test_no_flipped_byte_escapes_as_another_exception(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.pt"
    kind = data.draw(st.sampled_from(["zip", "legacy", "safetensors"]))
    save_file(weights(), path) if kind == "safetensors" else saved(path, weights(), zipped=kind == "zip")
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    assert "\n" not in outcome(path)


# ---- shards


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert refusal(index) == "shard 'b.safetensors': is missing; copy it beside the index"


def test_a_tensor_that_the_index_forgets_is_named_not_dropped(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    said = json.loads(index.read_text())
    forgotten = next(name for name, place in said["weight_map"].items() if place == "b.safetensors")
    others = {n: p for n, p in said["weight_map"].items() if n != forgotten}
    others |= {} if "b.safetensors" in others.values() else {"x": "b.safetensors"}
    index.write_text(json.dumps({**said, "weight_map": others}))
    assert f"shard 'b.safetensors': holds tensor '{forgotten}'" in refusal(index)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    shard = tmp_path / "b.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert refusal(index).startswith("shard 'b.safetensors': the file is truncated: ")


def test_a_shard_that_lacks_a_tensor_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    save_file({"other": torch.ones(2)}, tmp_path / "b.safetensors")
    assert refusal(index).startswith("shard 'b.safetensors': lacks tensor '0.bias'")


def test_each_tensor_comes_from_the_shard_that_the_index_names(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    stale = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    own = load_checkpoint(tmp_path / "b.safetensors").tensors
    save_file(stale | {name: own[name].clone() for name in own}, tmp_path / "b.safetensors")
    assert_same(load_checkpoint(index), weights())


@pytest.mark.parametrize(
    "place", ["../a.safetensors", "x/../../a.safetensors", "/etc/passwd", "..\\a", "C:\\a", "C:a"]
)
def test_an_index_that_leaves_its_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "run").mkdir()
    sharded(tmp_path)
    index = tmp_path / "run" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": place}}))
    assert refusal(index) == f"the shard index names '{place}', outside its own folder; refused"


def test_shards_in_a_folder_below_the_index_are_read(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    index = sharded(tmp_path, ("parts/a.safetensors", "b.safetensors"))
    assert_same(load_checkpoint(index), weights())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the shard index is not JSON: "),
        ("{" + '"a":[' * 100_000, "the shard index is not JSON: "),
        ("{}", "expected a shard index with a 'weight_map' of tensor names to files"),
        ('{"weight_map": {}}', "expected a shard index with a 'weight_map'"),
        ('{"weight_map": {"w": 3}}', "the shard index gives no file name for 'w'"),
    ],
)
def test_a_broken_index_is_named_as_such(tmp_path: Path, text: str, message: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    assert refusal(index).startswith(message)


def test_one_shard_of_several_is_not_a_network(tmp_path: Path) -> None:
    path = tmp_path / "model-00002-of-00003.safetensors"
    save_file(weights(), path)
    assert refusal(path).startswith("expected a whole network, got shard 2 of 3; give the file")
    assert_same(load_checkpoint(path.rename(tmp_path / "model-00001-of-00001.safetensors")), weights())


def test_an_index_may_say_nothing_but_where_the_tensors_are(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    assert_same(load_checkpoint(index), weights())


def test_a_state_key_in_a_file_without_any_state_dict_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", {"epoch": 3})
    assert refusal(path, "model") == "no state dict under 'model', nor anywhere else in the file"


def test_a_folder_that_may_not_be_listed_is_named_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may list any
    assert refusal(tmp_path) == "expected a checkpoint file, got a folder that may not be listed"


def test_what_the_system_says_against_reading_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(weights(), tmp_path / "net.safetensors")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nrc_probe.checkpoint.checkpoint.safe_open", refuse)
    assert refusal(tmp_path / "net.safetensors") == "the file cannot be read: Permission denied"


def test_a_zip_directory_that_is_broken_otherwise_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "net.pt", {"model": weights()})

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("zip disks")

    monkeypatch.setattr("nrc_probe.checkpoint.content.zipfile.ZipFile", refuse)
    assert "its zip directory is broken: zip disks" in refusal(path)
