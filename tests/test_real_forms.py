"""The files of the paper's public data sets, made here in their form, are read as their users expect.

UCI's sgemm_product.csv, Carla2D's arrays and CARLA's HDF5 files, UTKFace's folder of named photographs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from nrc_probe.dataset import Dataset, open_dataset, rows
from nrc_probe.errors import DataError
from nrc_probe.spec import DataSpec

RNG = np.random.default_rng(0)


def read(dataset: Dataset, batch_size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*dataset.batches(batch_size), strict=True)
    return torch.cat(inputs), torch.cat(targets)


SGEMM_COLUMNS = (
    *(
        "MWG",
        "NWG",
        "KWG",
        "MDIMC",
        "NDIMC",
        "MDIMA",
        "NDIMB",
        "KWI",
        "VWM",
        "VWN",
        "STRM",
        "STRN",
        "SA",
        "SB",
    ),
    *(f"Run{run} (ms)" for run in range(1, 5)),
)


def test_the_columns_of_sgemm_product_are_recognised_and_reported(tmp_path: Path) -> None:
    table = RNG.integers(1, 99, (12, 18)) / 4
    header = ",".join(SGEMM_COLUMNS)
    np.savetxt(tmp_path / "sgemm_product.csv", table, delimiter=",", header=header, comments="", fmt="%.2f")
    dataset = open_dataset(DataSpec("sgemm_product.csv", folder=tmp_path))
    inputs, targets = read(dataset)
    np.testing.assert_array_equal(inputs, table[:, :14])
    np.testing.assert_array_equal(targets, table[:, 14:])
    assert dataset.notes == (
        f"inputs taken from columns {', '.join(SGEMM_COLUMNS[:12])}, ... SB",
        "targets taken from columns Run1 (ms), Run2 (ms), Run3 (ms), Run4 (ms)",
    )


def test_columns_that_are_named_win_over_the_recognised_run_times(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("MWG,NWG,Run1 (ms),Run2 (ms)\n1,2,3,4\n5,6,7,8\n")
    found = read(open_dataset(DataSpec("d.csv", "NWG", "Run2 (ms)", folder=tmp_path)))
    np.testing.assert_array_equal(found[0], [[2], [6]])
    np.testing.assert_array_equal(found[1], [[4], [8]])


def test_a_single_run_time_as_target_leaves_the_others_out_of_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("MWG,NWG,Run1 (ms),Run2 (ms)\n1,2,3,4\n5,6,7,8\n")
    found = read(open_dataset(DataSpec("d.csv", targets="Run2 (ms)", folder=tmp_path)))
    np.testing.assert_array_equal(found[0], [[1, 2], [5, 6]])
    np.testing.assert_array_equal(found[1], [[4], [8]])


def test_carla2d_arrays_are_images_and_targets_in_two_npy_files(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (6, 10, 14, 3), dtype=np.uint8)
    targets = RNG.normal(size=(6, 2))
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "targets.npy", targets)
    dataset = open_dataset(DataSpec("images.npy", targets="targets.npy", folder=tmp_path))
    inputs, found = read(dataset)
    assert dataset.input_shape == (3, 10, 14)
    np.testing.assert_allclose(inputs, images.transpose(0, 3, 1, 2) / np.float32(255), rtol=1e-7)
    np.testing.assert_array_equal(found, targets)


def write_carla(path: Path, n: int, width: int = 28, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    images = RNG.integers(0, 256, (n, size, 9, 3), dtype=np.uint8)
    targets = RNG.normal(size=(n, width)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["rgb"], file["targets"] = images, targets
    return images, targets


def test_a_carla_file_gives_steering_and_speed_and_says_so(tmp_path: Path) -> None:
    images, targets = write_carla(tmp_path / "data_00001.h5", 5)
    dataset = open_dataset(DataSpec("data_00001.h5", folder=tmp_path))
    inputs, found = read(dataset)
    np.testing.assert_allclose(inputs, images.transpose(0, 3, 1, 2) / np.float32(255), rtol=1e-7)
    np.testing.assert_array_equal(found, targets[:, [0, 10]])
    assert "targets taken from 'targets[0,10]': CARLA's steering, speed" in dataset.notes
    assert "inputs taken from array 'rgb'" in dataset.notes


def test_targets_of_another_width_are_not_taken_for_carlas(tmp_path: Path) -> None:
    _, targets = write_carla(tmp_path / "d.h5", 5, width=2)
    np.testing.assert_array_equal(read(open_dataset(DataSpec("d.h5", folder=tmp_path)))[1], targets)


def test_columns_of_an_array_beside_others_are_chosen_in_brackets(tmp_path: Path) -> None:
    _, targets = write_carla(tmp_path / "d.h5", 5)
    for text, columns in (("targets[1]", [1]), ("targets[25:]", [25, 26, 27]), ("targets[2,0]", [2, 0])):
        dataset = open_dataset(DataSpec("d.h5", targets=text, folder=tmp_path))
        np.testing.assert_array_equal(read(dataset)[1], targets[:, columns])
    with pytest.raises(DataError, match=r"d\.h5: 'targets': columns '28' are none; it has 28 columns"):
        open_dataset(DataSpec("d.h5", targets="targets[28]", folder=tmp_path))
    with pytest.raises(DataError, match=r"has no array 'speed\[0\]'; it has rgb \(5, 8, 9, 3\), targets"):
        open_dataset(DataSpec("d.h5", targets="speed[0]", folder=tmp_path))


def test_a_folder_of_hdf5_files_is_read_in_name_order_as_one(tmp_path: Path) -> None:
    parts = [write_carla(tmp_path / f"data_{number:05}.h5", n) for number, n in ((1, 5), (2, 3), (10, 4))]
    (tmp_path / "README.txt").write_text("not data")
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert dataset.n == 12
    for _ in range(2):
        inputs, targets = read(dataset)
        images = np.concatenate([part[0] for part in parts]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(inputs, images / np.float32(255), rtol=1e-7)
        np.testing.assert_array_equal(targets, np.concatenate([part[1] for part in parts])[:, [0, 10]])


def test_hdf5_files_that_do_not_fit_each_other_are_told_apart(tmp_path: Path) -> None:
    write_carla(tmp_path / "a.h5", 5)
    write_carla(tmp_path / "b.h5", 5, size=7)
    message = (
        r"b\.h5: expected 'rgb' as in a\.h5, rgb \(5, 8, 9, 3\) uint8, whatever the rows; "
        r"got rgb \(5, 7, 9, 3\) uint8"
    )
    with pytest.raises(DataError, match=message):
        open_dataset(DataSpec(str(tmp_path)))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["targets"] = np.zeros((5, 28), np.float32)
    with pytest.raises(DataError, match=r"b\.h5: expected 'rgb' .* got nothing"):
        open_dataset(DataSpec(str(tmp_path)))


def test_a_damaged_file_in_a_folder_is_named(tmp_path: Path) -> None:
    write_carla(tmp_path / "a.h5", 5)
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:300])
    with pytest.raises(DataError, match=r"b\.h5: not a readable HDF5 file"):
        open_dataset(DataSpec(str(tmp_path)))


def write_faces(folder: Path, names: list[str], size: tuple[int, int] = (12, 10)) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(names):
        image.new("RGB", size, (number, 2 * number, 255)).save(folder / name)


def test_a_utkface_folder_gives_images_in_name_order_and_ages(tmp_path: Path) -> None:
    names = ["7_1_2_20170109142408075.png", "100_0_0_20170112213500903.png", "35_1_4_20170109.png"]
    write_faces(tmp_path, names)
    dataset = open_dataset(DataSpec(str(tmp_path)))
    inputs, targets = read(dataset, batch_size=2)
    assert (dataset.n, dataset.input_shape, dataset.target_dim) == (3, (3, 10, 12), 1)
    np.testing.assert_array_equal(targets, [[100], [35], [7]])
    np.testing.assert_allclose(inputs[:, 0, 0, 0] * 255, [1, 2, 0], atol=1e-5)
    np.testing.assert_allclose(inputs[:, 2], 1)
    assert dataset.notes[0] == "targets: age in years, taken from the file names"
    assert not any("class labels" in note for note in dataset.notes)


def test_jpeg_files_with_utkfaces_second_suffix_are_read(tmp_path: Path) -> None:
    write_faces(tmp_path, ["20_1_2_20170109142408075.jpg.chip.jpg", "21_1_2_20170109142408076.JPG"])
    np.testing.assert_array_equal(read(open_dataset(DataSpec(str(tmp_path))))[1], [[20], [21]])


def test_files_without_an_age_in_their_name_are_left_out_and_listed(tmp_path: Path) -> None:
    write_faces(tmp_path, ["20_1_2_2017.jpg", "61_1_20170109.jpg", "me.jpg", "30_0_9_2017.jpg", "x.png"])
    (tmp_path / ".DS_Store").touch()
    dataset = open_dataset(DataSpec(str(tmp_path)))
    assert dataset.n == 1
    assert dataset.notes[1] == (
        "4 files left out, not named [age]_[gender]_[race]_[date].jpg: "
        "30_0_9_2017.jpg, 61_1_20170109.jpg, me.jpg, and 1 more"
    )


def test_images_are_decoded_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nrc_probe.dataset import folders

    write_faces(tmp_path, [f"{age}_0_0_2017.jpg" for age in range(10, 20)])
    monkeypatch.setattr(rows, "BLOCK_BYTES", 3 * 12 * 10 * 3)
    dataset = open_dataset(DataSpec(str(tmp_path)))
    seen: list[str] = []
    decode = folders._decoded
    monkeypatch.setattr(
        folders, "_decoded", lambda path, *rest: (seen.append(path.name), decode(path, *rest))[1]
    )
    next(dataset.batches(2))
    assert seen == ["10_0_0_2017.jpg", "11_0_0_2017.jpg", "12_0_0_2017.jpg"]


def test_images_that_cannot_be_one_array_are_named(tmp_path: Path) -> None:
    write_faces(tmp_path, ["10_0_0_2017.jpg"])
    write_faces(tmp_path, ["11_0_0_2017.jpg"], size=(13, 10))
    message = r"11_0_0_2017\.jpg: 13 x 10 pixels, the images before it 12 x 10; expected one size"
    with pytest.raises(DataError, match=message):
        read(open_dataset(DataSpec(str(tmp_path))))
    (tmp_path / "11_0_0_2017.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"11_0_0_2017\.jpg: not a readable image file"):
        read(open_dataset(DataSpec(str(tmp_path))))


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"the folder cannot be read \(Permission denied\)"):
        open_dataset(DataSpec(str(tmp_path)))


def test_a_folder_of_other_images_is_refused(tmp_path: Path) -> None:
    write_faces(tmp_path, ["cat.jpg"])
    with pytest.raises(DataError, match=r"no image is named \[age\]_.*; the first is cat\.jpg"):
        open_dataset(DataSpec(str(tmp_path)))
    write_carla(tmp_path / "a.h5", 5)
    with pytest.raises(DataError, match="a folder that holds both HDF5 files and images; expected"):
        open_dataset(DataSpec(str(tmp_path)))


def test_arrays_cannot_be_named_in_a_folder_of_images(tmp_path: Path) -> None:
    write_faces(tmp_path, ["10_0_0_2017.jpg"])
    with pytest.raises(DataError, match="a folder of images has no array 'y'; its targets are the ages"):
        open_dataset(DataSpec(str(tmp_path), targets="y"))


def test_another_name_is_another_fingerprint(tmp_path: Path) -> None:
    write_faces(tmp_path, ["10_0_0_2017.jpg", "20_0_0_2017.jpg"])
    before = open_dataset(DataSpec(str(tmp_path))).sha256
    (tmp_path / "20_0_0_2017.jpg").rename(tmp_path / "30_0_0_2017.jpg")
    assert open_dataset(DataSpec(str(tmp_path))).sha256 != before


def test_images_without_pillow_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "10_0_0_2017.jpg").touch()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="needs pillow: pip install pillow"):
        open_dataset(DataSpec(str(tmp_path)))
