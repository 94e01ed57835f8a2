"""Every file format gives the same rows, streams, and fails in one line that names the way out."""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_safetensors

from nrc_probe.dataset import Dataset, open_dataset, rows
from nrc_probe.errors import CodeRefusedError, DataError
from nrc_probe.spec import DataSpec

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype(np.float32)
Y = RNG.normal(size=(50, 2))


def read(
    dataset: Dataset, batch_size: int = 7, limit: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*dataset.batches(batch_size, limit), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def write_csv(path: Path, header: str = "", delimiter: str = ",") -> None:
    np.savetxt(path, np.hstack([X, Y]), delimiter=delimiter, header=header, comments="", fmt="%.17g")


def write_hdf5(path: Path, **options: object) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, **options)
        file.create_dataset("y", data=Y)


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {f"x{i}": X[:, i] for i in range(4)} | {f"y{i}": Y[:, i] for i in range(2)}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=20)


WRITERS = {
    "d.npz": lambda path: np.savez(path, x=X, y=Y),
    "compressed.npz": lambda path: np.savez_compressed(path, x=X, y=Y),
    "fortran.npz": lambda path: np.savez(path, x=np.asfortranarray(X), y=np.asfortranarray(Y)),
    "bigendian.npz": lambda path: np.savez(path, x=X.astype(">f4"), y=Y.astype(">f8")),
    "named.csv": lambda path: write_csv(path, "x0,x1,x2,x3,y0,y1"),
    "tabs.csv": lambda path: write_csv(path, "x0\tx1\tx2\tx3\ty0\ty1", "\t"),
    "semicolons.csv": lambda path: write_csv(path, '"x0";"x1";"x2";"x3";"y0";"y1"', ";"),
    "commented.csv": lambda path: write_csv(path, "# made by hand\n# x0,x1,x2,x3,y0,y1"),
    "d.h5": write_hdf5,
    "chunked.hdf5": lambda path: write_hdf5(path, chunks=(3, 2), compression="gzip"),
    "d.safetensors": lambda path: save_safetensors({"x": X, "y": Y}, path),
    "d.pt": lambda path: torch.save({"x": torch.tensor(X), "y": torch.tensor(Y)}, path),
    "old.pth": lambda path: torch.save(
        {"x": torch.tensor(X), "y": torch.tensor(Y)}, path, _use_new_zipfile_serialization=False
    ),
    "pair.pt": lambda path: torch.save((torch.tensor(X), torch.tensor(Y)), path),
    "d.parquet": write_parquet,
}
BINARY = [name for name in WRITERS if not name.endswith((".csv", ".parquet"))]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_that_were_written(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    dataset = open_dataset(DataSpec(path=name, folder=tmp_path))
    inputs, targets = read(dataset)
    assert (dataset.n, dataset.input_shape, dataset.target_dim) == (50, (4,), 2)
    assert inputs.dtype == (torch.float64 if name.endswith(".csv") else torch.float32)
    assert targets.dtype == torch.float64
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(targets, Y)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_in_small_blocks_twice_and_stops_at_the_limit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BLOCK_BYTES", 100)
    WRITERS[name](tmp_path / name)
    dataset = open_dataset(DataSpec(path=str(tmp_path / name)))
    for _ in range(2):
        np.testing.assert_array_equal(read(dataset, 8, limit=19)[0], X[:19])


@pytest.mark.parametrize("name", BINARY)
def test_a_file_cut_in_half_is_named_as_damaged(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 1])
    with pytest.raises(DataError, match=f"{path}: ") as caught:
        read(open_dataset(DataSpec(path=str(path))))
    assert "\n" not in str(caught.value)


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"d\.parquet: not a readable \.parquet file"):
        open_dataset(DataSpec(path="d.parquet", folder=tmp_path))


def test_a_flipped_byte_in_an_npz_is_noticed_while_streaming(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npz: not a readable \.npz file \(Bad CRC-32"):
        read(open_dataset(DataSpec(path=str(path))))


def test_hdf5_is_never_read_in_more_than_one_block_of_whole_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hdf5(tmp_path / "d.h5", chunks=(6, 4))
    monkeypatch.setattr(rows, "BLOCK_BYTES", 13 * 16)
    seen: list[slice] = []
    read_slice = h5py.Dataset.__getitem__

    def watched(self: h5py.Dataset, key: slice) -> object:
        seen.append(key)
        return read_slice(self, key)

    dataset = open_dataset(DataSpec(path="d.h5", folder=tmp_path))
    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    read(dataset, batch_size=50)
    assert slice(0, 12) in seen
    assert all(key.stop - key.start <= 13 for key in seen)


def test_the_limit_ends_the_reading_of_an_hdf5_file_and_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hdf5(tmp_path / "d.h5")
    monkeypatch.setattr(rows, "BLOCK_BYTES", 5 * 16)
    dataset = open_dataset(DataSpec(path="d.h5", folder=tmp_path))
    stream = dataset.batches(10, limit=10)
    assert len(next(stream)[0]) == 10
    assert next(stream, None) is None
    h5py.File(tmp_path / "d.h5", "a").close()  # HDF5 refuses this while a reader holds the file


def test_npy_inputs_and_targets_can_lie_in_two_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y[:, 0])
    dataset = open_dataset(DataSpec(path="x.npy", targets="y.npy", folder=tmp_path))
    inputs, targets = read(dataset)
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(targets, Y[:, :1])
    np.save(tmp_path / "y.npy", Y[:, 1])
    again = open_dataset(DataSpec(path="x.npy", targets="y.npy", folder=tmp_path))
    assert again.sha256 != dataset.sha256


@pytest.mark.parametrize(
    ("inputs", "targets", "taken", "aimed"),
    [
        ("0:4", "4:6", [0, 1, 2, 3], [4, 5]),
        ("0,2,3:5", "-2:", [0, 2, 3, 4], [4, 5]),
        (":2", "-1", [0, 1], [5]),
        ("5,0", "4", [5, 0], [4]),
    ],
)
def test_one_matrix_is_split_by_column_ranges(
    inputs: str, targets: str, taken: list[int], aimed: list[int], tmp_path: Path
) -> None:
    both = np.hstack([X.astype(float), Y])
    np.save(tmp_path / "d.npy", both)
    found = read(open_dataset(DataSpec("d.npy", inputs, targets, folder=tmp_path)))
    np.testing.assert_array_equal(found[0], both[:, taken])
    np.testing.assert_array_equal(found[1], both[:, aimed])


def test_csv_columns_are_chosen_by_name_and_text_elsewhere_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("file,age,width,height\na.png,1,2,3\n\nb.png,4,5,6\n")
    found = read(open_dataset(DataSpec("d.csv", "width, height", "age", folder=tmp_path)))
    np.testing.assert_array_equal(found[0], [[2, 3], [5, 6]])
    np.testing.assert_array_equal(found[1], [[1], [4]])


def test_the_columns_beside_named_targets_are_the_inputs(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("hip,knee,torque,ankle\n1,2,3,4\n5,6,7,8\n")
    dataset = open_dataset(DataSpec("d.csv", targets="torque", folder=tmp_path))
    np.testing.assert_array_equal(read(dataset)[0], [[1, 2, 4], [5, 6, 8]])
    assert dataset.notes == ("inputs taken from all but the targets: columns hip, knee, ankle",)
    np.save(tmp_path / "d.npy", np.arange(8.0).reshape(2, 4))
    found = read(open_dataset(DataSpec("d.npy", targets="-1", folder=tmp_path)))
    np.testing.assert_array_equal(found[0], [[0, 1, 2], [4, 5, 6]])


def test_usual_names_of_inputs_win_over_all_the_rest(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("time,x0,x1,torque\n9,1,2,3\n9,5,6,7\n")
    found = read(open_dataset(DataSpec("d.csv", targets="torque", folder=tmp_path)))
    np.testing.assert_array_equal(found[0], [[1, 2], [5, 6]])


def test_targets_that_leave_no_column_for_the_inputs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"d\.csv: all 2 columns are targets, none is left for the inputs"):
        open_dataset(DataSpec("d.csv", targets="0:2", folder=tmp_path))


def test_hdf5_data_sets_can_be_nested_and_guesses_are_noted(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["train/x"] = X
        file["actions"] = Y
    dataset = open_dataset(DataSpec("d.h5", inputs="train/x", folder=tmp_path))
    assert dataset.notes == ("targets taken from array 'actions'",)


def virtual(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "part.h5", "w") as part:
        part["x"] = X
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource("part.h5", "x", X.shape)
    file.create_virtual_dataset("x", layout)


def outside(file: h5py.File, folder: Path) -> None:
    (folder / "raw.bin").write_bytes(X.tobytes())
    file.create_dataset("x", X.shape, X.dtype, external=[("raw.bin", 0, X.nbytes)])


def unwritten(file: h5py.File, _: Path) -> None:
    file.create_dataset("x", (10**12, 4), "f4", chunks=(1000, 4))


def link(file: h5py.File, folder: Path) -> None:
    with h5py.File(folder / "part.h5", "w") as part:
        part["x"] = X
    file["x"] = h5py.ExternalLink("part.h5", "/x")


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (virtual, "data set 'x' is put together from other data sets, in part.h5: copy"),
        (outside, "data set 'x' lies outside its file, in raw.bin: copy its values into one"),
        (unwritten, r"inputs 'x' have 1000000000000 rows, targets 'y' have 50"),
        (link, r"inputs 'x' hold a link into 'part\.h5'; expected real numbers"),
    ],
)
def test_hdf5_values_that_lie_elsewhere_are_refused_there_or_not(
    make: Callable[[h5py.File, Path], None], message: str, missing: bool, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        make(file, tmp_path)
        file["y"] = Y
    if missing:
        for path in (*tmp_path.glob("part.*"), *tmp_path.glob("raw.*")):
            path.unlink()
    with pytest.raises(DataError, match=rf"d\.h5: {message}"):
        read(open_dataset(DataSpec("d.h5", folder=tmp_path)))


def test_hdf5_values_that_were_never_written_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        unwritten(file, tmp_path)
        file.create_dataset("y", (10**12, 1), "f4", chunks=(1000, 1))
    with pytest.raises(DataError, match=r"data set 'y' was made but never written: it has shape \(1000000"):
        open_dataset(DataSpec("d.h5", folder=tmp_path))


def test_x_is_guessed_before_observations(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", observations=Y, x=X, y=Y)
    assert open_dataset(DataSpec("d.npz", folder=tmp_path)).notes == (
        "inputs taken from array 'x'",
        "targets taken from array 'y'",
    )


def test_the_fingerprint_is_the_sha256_of_the_file(tmp_path: Path) -> None:
    import hashlib

    np.savez(tmp_path / "d.npz", x=X, y=Y)
    expected = hashlib.sha256((tmp_path / "d.npz").read_bytes()).hexdigest()
    assert open_dataset(DataSpec("d.npz", folder=tmp_path)).sha256 == expected


ARRAY_ERRORS = {
    "two arrays, one known": (
        {"x": X, "score": Y},
        {},
        r"which array holds the targets\? It has x \(50, 4\), score \(50, 2\); name them",
    ),
    "a name that is not there": (
        {"x": X, "y": Y},
        {"inputs": "obs"},
        r"has no array 'obs'; it has x \(50, 4\), y \(50, 2\)",
    ),
    "different lengths": (
        {"x": X, "y": Y[:49]},
        {},
        "inputs 'x' have 50 rows, targets 'y' have 49; expected as many",
    ),
    "no rows": ({"x": X[:0], "y": Y[:0]}, {}, r"inputs 'x' have shape \(0, 4\): no rows"),
    "targets of three dimensions": (
        {"x": X, "y": np.zeros((50, 2, 3))},
        {},
        r"targets 'y' have shape \(50, 2, 3\); expected \(n,\) or \(n, t\)",
    ),
    "a scalar": ({"x": np.float64(1), "y": Y}, {}, "inputs 'x' are a single number; expected rows"),
    "complex": ({"x": X + 1j, "y": Y}, {}, "inputs 'x' hold complex64; expected real numbers"),
    "text": ({"x": X, "y": np.array(["a"] * 50)}, {}, "targets 'y' hold str32; expected real"),
    "objects": ({"x": np.array([None] * 50), "y": Y}, {}, "inputs 'x' hold object; expected real"),
    "an unknown layout": ({"x": X, "y": Y}, {"images": "nwhc"}, "images = 'nwhc': expected auto"),
}


@pytest.mark.parametrize("case", ARRAY_ERRORS)
def test_arrays_that_are_no_regression_are_refused(case: str, tmp_path: Path) -> None:
    arrays, options, message = ARRAY_ERRORS[case]
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=rf"d\.npz: {message}"):
        open_dataset(DataSpec("d.npz", folder=tmp_path, **options))


@pytest.mark.parametrize(
    ("role", "value", "place"),
    [("x", np.nan, "row 37, column 2"), ("y", np.inf, "row 37, column 1")],
)
def test_the_first_value_that_is_not_finite_is_located(
    role: str, value: float, place: str, tmp_path: Path
) -> None:
    arrays = {"x": X.copy(), "y": Y.copy()}
    arrays[role][37, int(place[-1])] = value
    arrays[role][40] = value
    np.savez(tmp_path / "d.npz", **arrays)
    name = {"x": "inputs", "y": "targets"}[role]
    for spec in (
        DataSpec("d.npz", folder=tmp_path),
        DataSpec("d.npz", standardize=(name,), folder=tmp_path),
    ):
        with pytest.raises(DataError, match=rf"{name} at {place} \(from 0\): .* got {value}; drop"):
            read(open_dataset(spec), 8)


CSV_ERRORS = {
    "not a number": ("x,y\n1,2\n\n3,abc\n", {}, "line 4: expected a number, got 'abc'"),
    "a gap": ("x,y\n1,2\n,4\n", {}, "line 3: expected a number, got ''"),
    "ragged": ("x,y\n1,2\n3\n", {}, "line 3 has 1 columns, the lines before it 2"),
    "only a header": ("x,y\n", {}, r"inputs 'columns' have shape \(0, 1\): no rows"),
    "strange names": (
        "a,b\n1,2\n",
        {},
        r"which columns hold the inputs\? It has 2 columns: a, b; name",
    ),
    "no names": ("1,2\n3,4\n", {}, r"which .* It has 2 columns without names \(0:2\); name them"),
    "one name for two": (
        "a,y,y\n1,2,3\n",
        {"targets": "y"},
        "2 columns are called 'y'; name them by place: 1,2",
    ),
    "a wrong name": ("a,b\n1,2\n", {"inputs": "c"}, "has no column 'c'; it has 2 columns: a, b"),
    "out of range": ("1,2\n3,4\n", {"inputs": "0:3"}, "columns '0:3' are not there; it has 2 col"),
    "endless": ("1,2\n3,4\n", {"inputs": "0:" + "9" * 5000}, r"has no column '0:9+'; it has 2 columns"),
    "a dash": (
        "1,2\n3,4\n",
        {"inputs": "0-4"},
        r"has no column '0-4'; it has 2 columns without names \(0:2\)",
    ),
    "none": ("1,2\n3,4\n", {"inputs": "1:1"}, "columns '1:1' are none; it has 2 columns"),
}


@pytest.mark.parametrize("case", CSV_ERRORS)
def test_text_that_is_no_table_of_numbers_is_located(case: str, tmp_path: Path) -> None:
    text, options, message = CSV_ERRORS[case]
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(DataError, match=rf"d\.csv: {message}"):
        open_dataset(DataSpec("d.csv", folder=tmp_path, **options))


def test_files_that_are_not_data_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.npz").touch()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "missing.npz": "there is no such file; expected .npz, .npy, .csv, .h5,",
        "folder": "a folder that holds no data; expected one file, or a folder of HDF5 files, or of images",
        "notes.txt": "unknown kind of file '.txt'; expected .npz, .npy",
        "empty.npz": r"the file is empty \(0 bytes\)",
    }.items():
        with pytest.raises(DataError, match=f"{name}: {message}"):
            open_dataset(DataSpec(name, folder=tmp_path))


def test_a_header_that_claims_more_than_the_archive_holds_is_refused_unread(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 8)}
    )
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(DataError, match=r"array 'x': its header claims \(1000000000000, 8\) float64"):
        open_dataset(DataSpec("d.npz", folder=tmp_path))


def write_zeros(path: Path, **shapes: tuple[int, ...]) -> Path:
    """An archive of bytes, all 0, which shrink to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.write(bytes(math.prod(shape)))
    return path


def test_targets_too_wide_for_their_covariance_are_refused_unread(tmp_path: Path) -> None:
    write_zeros(tmp_path / "d.npz", x=(4, 5), y=(4, 10**7))
    message = r"d\.npz: the covariance of targets 'y', 10000000 wide, needs 800000000000000 bytes"
    with pytest.raises(DataError, match=message):
        open_dataset(DataSpec("d.npz", folder=tmp_path))


def test_a_batch_that_no_machine_holds_is_refused_unread(tmp_path: Path) -> None:
    write_zeros(tmp_path / "d.npz", x=(4, 10**6), y=(4, 2))
    made = open_dataset(DataSpec("d.npz", folder=tmp_path))
    assert len(next(iter(made.batches(2)))[0]) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sysconf", lambda _: 5000)  # 25 MB of memory
        with pytest.raises(DataError, match=r"a batch of 4 rows needs 32000064 bytes, .* has 25000000"):
            next(iter(made.batches(4)))


def test_a_picture_of_more_pixels_than_pillow_warns_of_is_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "faces").mkdir()
    image.new("1", (10_000, 9_000)).save(tmp_path / "faces/20_0_0_2017.png")
    message = r"20_0_0_2017\.png: not a readable image file \(Image size \(90000000 pixels"
    with warnings.catch_warnings(action="ignore"), pytest.raises(DataError, match=message):
        open_dataset(DataSpec("faces", folder=tmp_path))


def test_a_damaged_header_is_refused_without_python_s_warnings(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.hstack([X, Y]))
    damaged = (tmp_path / "d.npy").read_bytes().replace(b"'descr'", b"'de\\er'")
    (tmp_path / "d.npy").write_bytes(damaged)
    with pytest.raises(DataError, match=r"d\.npy: not a readable \.npy file"):
        open_dataset(DataSpec("d.npy", folder=tmp_path))


def test_a_torch_file_that_needs_code_is_refused_by_the_name_of_the_code(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    torch.save(data, tmp_path / "d.pt")
    code = r"needs code to open \(torch.utils.data.dataset.TensorDataset\), which was not run; save a dict"
    with pytest.raises(
        DataError, match=rf"d\.pt: the file {code} of tensors, or give package.module:function$"
    ):
        open_dataset(DataSpec("d.pt", folder=tmp_path))


def _few_bytes(*shape: int) -> torch.Tensor:
    return torch.zeros(1).expand(*shape)


def _nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])


TORCH_ERRORS = {
    "few bytes": (lambda: _few_bytes(10**12, 4), "inputs 'x' hold 4 bytes that claim to be 16000000000000;"),
    "meta": (lambda: torch.empty(9, 4, device="meta"), "inputs 'x' hold no values .* meta device"),
    "nested": (_nested, "inputs 'x' hold a nested tensor; expected real numbers"),
    "sparse": (lambda: torch.eye(9).to_sparse(), "inputs 'x' hold torch.sparse_coo; expected real"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", TORCH_ERRORS)
def test_a_tensor_without_all_its_values_is_refused_before_it_is_read(
    case: str, zipped: bool, tmp_path: Path
) -> None:
    make, message = TORCH_ERRORS[case]
    if case == "nested" and not zipped:
        pytest.skip("torch writes no sizes of nested tensors into the older format")
    saved = {"x": make(), "y": torch.tensor(Y)}
    torch.save(saved, tmp_path / "d.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=message):
        open_dataset(DataSpec("d.pt", folder=tmp_path))


def test_a_constant_saved_as_one_number_is_read(tmp_path: Path) -> None:
    torch.save({"x": torch.tensor(X), "y": _few_bytes(len(X), 1)}, tmp_path / "d.pt")
    assert open_dataset(DataSpec("d.pt", folder=tmp_path)).n == len(X)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x,y\n1,2\n", "expected a file of torch.save, as '.pt' says, got a text file"),
        (pickle.dumps({"x": 1}, 4), "got a pickle that torch.save did not write"),
        (b"PK\x03\x04 cut", "the file is truncated: .* save or copy it again"),
    ],
)
def test_what_torch_did_not_save_is_refused_in_our_own_words(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "d.pt").write_bytes(content)
    with pytest.raises(DataError, match=rf"d\.pt: .*{message}") as caught:
        open_dataset(DataSpec("d.pt", folder=tmp_path))
    assert "weights_only" not in str(caught.value)


def test_a_damaged_name_in_a_torch_file_brings_no_advice_of_torch(tmp_path: Path) -> None:
    torch.save({"x": torch.tensor(X)}, tmp_path / "d.pt", _use_new_zipfile_serialization=False)
    damaged = (tmp_path / "d.pt").read_bytes().replace(b"ctorch._utils", b"cto#ch._utils")
    (tmp_path / "d.pt").write_bytes(damaged)
    with pytest.raises(DataError, match=r"d\.pt: the file is truncated or broken: .*to#ch") as caught:
        open_dataset(DataSpec("d.pt", folder=tmp_path))
    assert "safe_globals" not in str(caught.value)


def test_a_quantised_tensor_is_refused_without_torch_s_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.quantize_per_tensor(torch.tensor(X), 0.1, 0, torch.qint8)
        torch.save({"x": x, "y": torch.tensor(Y)}, tmp_path / "d.pt")
    with pytest.raises(DataError, match="inputs 'x' hold qint8; expected real numbers"):
        open_dataset(DataSpec("d.pt", folder=tmp_path))


@pytest.mark.parametrize("name", ["d.npz", "d.csv", "d.h5", "d.pt", "d.parquet"])
def test_a_pipe_is_no_data_file_and_nobody_waits_for_it(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"{name}: a pipe; expected one file: .npz"):
        open_dataset(DataSpec(name, folder=tmp_path))
    with pytest.raises(DataError, match=r"zero\.csv: a device; expected one file"):
        open_dataset(DataSpec("zero.csv", folder=tmp_path))


@pytest.mark.parametrize("name", ["loop.npz", f"{'a' * 300}.npz"])
def test_a_path_that_leads_nowhere_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    with pytest.raises(DataError, match=r"the file cannot be read: (Too many levels|File name too long)"):
        open_dataset(DataSpec(name, folder=tmp_path))


def test_a_factory_runs_only_for_the_user(tmp_path: Path) -> None:
    (tmp_path / "my_rows.py").write_text(
        "import numpy as np\ndef make(n):\n    return [(np.ones((n, 3)), np.ones(n))]\n"
    )
    spec = DataSpec("my_rows:make", options={"n": 5}, folder=tmp_path)
    with pytest.raises(CodeRefusedError, match="'my_rows:make' would run code"):
        open_dataset(spec)
    dataset = open_dataset(DataSpec(spec.path, options={"n": 5}, folder=tmp_path, trusted=True))
    assert (dataset.path, dataset.sha256, dataset.n) == ("my_rows:make", None, 5)
    with pytest.raises(DataError, match=r"my_rows:make failed \(TypeError: make\(\) missing 1"):
        open_dataset(DataSpec(spec.path, folder=tmp_path, trusted=True))


def test_no_path_names_the_ways_to_give_one() -> None:
    with pytest.raises(DataError, match=r"no data set: give --data, or \[data\] path"):
        open_dataset(DataSpec())


def test_parquet_without_its_extra_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'nrc-probe\[parquet\]'"):
        open_dataset(DataSpec("d.parquet", folder=tmp_path))


def write_rows(path: Path, inputs: int, targets: int) -> None:
    with h5py.File(path, "w") as file:
        file["rgb"], file["targets"] = (
            np.ones((inputs, 8, 9, 3), np.uint8),
            np.ones((targets, 28), np.float32),
        )
        file["lidar"] = np.ones((3, 2))


def test_a_file_of_a_folder_whose_rows_do_not_match_is_named_though_the_totals_agree(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.h5", 5, 5)
    write_rows(tmp_path / "b.h5", 4, 6)
    write_rows(tmp_path / "c.h5", 6, 4)
    message = r"b\.h5: inputs 'rgb' have 4 rows, targets 'targets' have 6; expected as many"
    for targets in (None, "targets", "targets[1]"):
        with pytest.raises(DataError, match=message):
            open_dataset(DataSpec(str(tmp_path), targets=targets))
    write_rows(tmp_path / "b.h5", 4, 4)
    write_rows(tmp_path / "c.h5", 6, 6)
    assert open_dataset(DataSpec(str(tmp_path))).n == 15


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "b.h5": (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
    "c.hdf5": (lambda path: path.symlink_to(path.name), "it cannot be opened \\(Too many levels"),
    "d.H5": (os.mkfifo, "a pipe"),
    "e.png": (Path.mkdir, "a folder"),
}


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_named_like_data_in_a_folder_and_is_no_file_is_not_passed_over(
    name: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "a.h5", 5, 5)
    make, what = NO_FILES[name]
    make(tmp_path / name)
    with pytest.raises(DataError, match=rf"/{name}: {what}.*; expected a file, as its name says$"):
        open_dataset(DataSpec(str(tmp_path)))


def test_pixels_of_more_than_eight_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("L", (10, 12), 7).save(tmp_path / "20_0_0_2017.png")
    assert open_dataset(DataSpec(str(tmp_path))).n == 1
    image.fromarray(np.full((12, 10), 40_000, np.uint16)).save(tmp_path / "10_0_0_2017.png")
    with pytest.raises(DataError, match=r"10_0_0_2017\.png: pixels of mode I;16; expected 8 bits a channel"):
        open_dataset(DataSpec(str(tmp_path)))


def test_a_file_that_cannot_be_read_for_its_fingerprint_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    for age in (20, 21):
        image.new("RGB", (10, 12)).save(tmp_path / f"{age}_0_0_2017.png")
    opened = Path.open

    def open_(path: Path, *mode: str) -> object:  # as the system does for all but root
        if path.name == "21_0_0_2017.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *mode)

    monkeypatch.setattr(Path, "open", open_)
    with pytest.raises(DataError, match=r"21_0_0_2017\.png: the file cannot be read: Permission denied$"):
        open_dataset(DataSpec(str(tmp_path)))


@pytest.mark.parametrize(
    ("inputs", "reading"),
    [("0:2", "inputs 0:2, targets another file"), (None, "inputs all, targets another file")],
)
def test_of_inputs_in_a_file_of_their_own_some_columns_can_be_taken(
    inputs: str | None, reading: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    dataset = open_dataset(DataSpec("x.npy", inputs, "y.npy", folder=tmp_path))
    torch.testing.assert_close(read(dataset)[0], torch.from_numpy(X[:, : 2 if inputs else 4]))
    assert dataset.reading == reading


def test_columns_of_inputs_that_have_none_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X[:, :, None])
    np.save(tmp_path / "y.npy", Y)
    with pytest.raises(DataError, match=r"x\.npy: inputs '0:2': expected \(n, d\), got \(50, 4, 1\)"):
        open_dataset(DataSpec("x.npy", "0:2", "y.npy", folder=tmp_path))


@pytest.mark.parametrize("name", ["d.npz", "d.h5", "d.safetensors", "d.pt"])
def test_arrays_of_one_number_are_no_data(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    one, many = np.float32(1), Y
    writers: dict[str, Callable[[], object]] = {
        "d.npz": lambda: np.savez(path, x=one, y=many),
        "d.h5": lambda: write_scalar(path),
        "d.safetensors": lambda: save_safetensors({"x": np.array(one), "y": many}, path),
        "d.pt": lambda: torch.save({"x": torch.tensor(1.0), "y": torch.from_numpy(many)}, path),
    }
    writers[name]()
    with pytest.raises(DataError, match=r"rows|expected"):
        read(open_dataset(DataSpec(name, folder=tmp_path)))


def write_scalar(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = np.float32(1), Y


def test_statistics_of_one_number_scale_every_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    numbers = {"x_mean": np.array(0.5), "x_std": np.array(2.0)}
    save_safetensors({key: np.array(value) for key, value in numbers.items()}, tmp_path / "s.safetensors")
    with h5py.File(tmp_path / "s.h5", "w") as file:
        for key, value in numbers.items():
            file[key] = value
    for name in ("s.safetensors", "s.h5"):
        dataset = open_dataset(DataSpec("d.npz", standardize=name, folder=tmp_path))
        torch.testing.assert_close(read(dataset)[0].double(), torch.from_numpy((X.astype(float) - 0.5) / 2))


def test_a_torch_file_of_anything_else_is_no_data(tmp_path: Path) -> None:
    torch.save("words", tmp_path / "d.pt")
    with pytest.raises(DataError, match=r"d\.pt: holds a str; expected a dict of tensors or a pair \(x, y\)"):
        open_dataset(DataSpec("d.pt", folder=tmp_path))


def test_a_csv_of_comments_alone_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("# nothing\n\n")
    with pytest.raises(DataError, match=r"d\.csv"):
        read(open_dataset(DataSpec("d.csv", folder=tmp_path)))


def test_a_number_that_only_python_reads_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b\n1,2\n1_000,3\n")
    with pytest.raises(DataError, match=r"d\.csv: not a readable \.csv file") as caught:
        read(open_dataset(DataSpec("d.csv", targets="b", folder=tmp_path)))
    assert "\n" not in str(caught.value)
