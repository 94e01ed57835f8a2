"""The fixtures are what their recipes make, and each is analysed without a word more."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import nrc_probe

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
CHECKPOINTS = sorted(path.relative_to(FIXTURES).as_posix() for path in FIXTURES.glob("*/*.safetensors"))
LAST_EPOCHS = sorted(path.relative_to(FIXTURES).as_posix() for path in FIXTURES.glob("runs/*/1000.pth"))


@pytest.fixture
def recipe(monkeypatch):
    """Imports a script of fixtures/recipes."""
    monkeypatch.syspath_prepend(str(FIXTURES / "recipes"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (FIXTURES / "recipes" / f"{name}.py").exists():
            del sys.modules[name]


def test_the_smallest_fixture_is_made_again_with_the_same_scores(recipe, tmp_path):
    shutil.copy(FIXTURES / "synthetic_linear/nrc-probe.toml", tmp_path)
    recipe("synthetic").linear(tmp_path)
    for name in ("wd_5e-3", "wd_0"):
        made = nrc_probe.analyze(tmp_path / f"{name}.safetensors")
        shipped = nrc_probe.analyze(FIXTURES / f"synthetic_linear/{name}.safetensors")
        assert made.data.sha256 != "", "the data were read"
        for field in ("nrc1", "nrc2", "nrc3", "cka"):
            again, before = ([getattr(layer, field) for layer in result.layers] for result in (made, shipped))
            np.testing.assert_allclose(again, before, atol=0.02, err_msg=f"{name} {field}")
        assert made.model_mse == pytest.approx(shipped.model_mse, rel=0.1)


def test_of_further_seeds_only_the_scores_are_kept(recipe, tmp_path):
    training = recipe("training")
    for name in ("nrc-probe.toml", "train.npz", "test.npz"):
        shutil.copy(FIXTURES / "synthetic_linear" / name, tmp_path)
    run = training.Training(depth=3, width=8, epochs=1, weight_decay=1e-3)
    training.fit_for_scores(tmp_path, {"wd_1e-3": run}, seeds=(1, 2))
    kept = sorted((tmp_path / "seeds").iterdir())
    assert [path.name for path in kept] == ["wd_1e-3_seed1.json", "wd_1e-3_seed2.json"]
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in kept)
    assert first["checkpoint"]["weight_decay"] == 1e-3
    assert first["heldout"]["model_mse"] != second["heldout"]["model_mse"]


def test_of_unclipped_actions_only_the_scores_are_kept(recipe, monkeypatch, tmp_path):
    monkeypatch.setitem(
        sys.modules, "experts", types.SimpleNamespace(TASKS={}, train_expert=None, write_rows=None)
    )
    (tmp_path / "unclipped").mkdir()
    shutil.copy(FIXTURES / "synthetic_linear/nrc-probe.toml", tmp_path)
    for name in ("train.npz", "test.npz"):
        shutil.copy(FIXTURES / "synthetic_linear" / name, tmp_path / "unclipped")
    run = recipe("training").Training(depth=3, width=8, epochs=1)
    recipe("hopper").fit_unclipped(tmp_path, {"wd_1e-3": run})
    kept = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    seeds = [f"unclipped/seeds/wd_1e-3_seed{seed}.json" for seed in (0, 1, 2)]
    assert kept == ["nrc-probe.toml", *seeds]
    scores = json.loads((tmp_path / seeds[0]).read_text(encoding="utf-8"))
    assert scores["data"]["path"].endswith("unclipped/train.npz"), "not the clipped rows beside it"


@pytest.mark.parametrize("checkpoint", [*CHECKPOINTS, *LAST_EPOCHS])
def test_every_shipped_checkpoint_is_analysed_with_what_lies_beside_it(checkpoint):
    result = nrc_probe.analyze(FIXTURES / checkpoint, limit=300)
    assert result.model_r2 > 0.5
    assert result.heldout is not None
    assert result.checkpoint.weight_decay is not None
    assert result.checkpoint.epoch is not None
    assert [warning for warning in result.warnings if "--limit" not in warning] == []


def test_every_fixture_has_its_recipe_and_its_place_in_the_readme():
    text = (FIXTURES / "README.md").read_text(encoding="utf-8")
    for path in FIXTURES.glob("*/nrc-probe.toml"):
        assert f"## {path.parent.name}\n" in text


def test_the_run_folder_is_as_the_released_scripts_leave_it():
    folders = sorted(path.name for path in (FIXTURES / "runs").iterdir() if path.is_dir())
    assert len(folders) == 4
    for folder in folders:
        assert len(list((FIXTURES / "runs" / folder).glob("*.pth"))) == 12
    found = nrc_probe.analyze(FIXTURES / "runs" / folders[1] / "10.pth", limit=50).checkpoint
    assert (found.epoch, found.weight_decay, found.learning_rate) == (10, 0.0005, 0.1)


def test_run_folder_checkpoints_are_small():
    assert max(path.stat().st_size for path in FIXTURES.glob("runs/*/*.pth")) <= 150_000


def test_an_unknown_recipe_is_refused(recipe, capsys):
    assert recipe("everything").main(["hoper"]) == 1
    assert "no recipe 'hoper'; there are hopper, reacher" in capsys.readouterr().out


def test_onset_is_the_first_epoch_of_the_unbroken_tail(recipe):
    onset = recipe("scores").onset
    epochs = [1, 2, 5, 10]
    assert onset(epochs, [True, False, True, True].__getitem__) == 5
    assert onset(epochs, [True, True, True, True].__getitem__) == 1
    assert onset(epochs, [True, True, True, False].__getitem__) is None


def test_a_claim_holds_partly_where_some_of_its_parts_do(recipe):
    verdict = recipe("claims").verdict
    assert verdict([True, True]) == "holds"
    assert verdict([True, False]) == "holds partly"
    assert verdict([False, False]) == "does not hold here"


def test_numbers_in_the_document_keep_three_digits_or_say_that_there_is_none(recipe):
    number = recipe("tables").number
    assert [number(value) for value in (0.05349, 12.345, 0.0, 4.2e-5, None, float("nan"))] == [
        *("0.053", "12.3", "0.000", "4.2e-05", "-", "-"),
    ]
