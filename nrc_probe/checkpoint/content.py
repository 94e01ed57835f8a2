"""What a file is, by its first bytes: names may lie."""

from __future__ import annotations

import zipfile
from pathlib import Path

from nrc_probe.errors import CheckpointError
from nrc_probe.plain import first_line

OF_TORCH = ("torch-zip", "torch-legacy", "torchscript")
OF_SAFETENSORS = ("safetensors", "safetensors-sharded")
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
_LONGEST_HEADER = 100_000_000  # safetensors' own limit
_FOREIGN = (
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it first"),
    (b"GGUF", "a GGUF file"),
    (b"PAR1", "a parquet table"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer: run 'git lfs pull' to get the file itself"),
    (b"<", "an HTML or XML page: the download went wrong"),
    (b"\x80", "a pickle that torch.save did not write"),
)


def content_of(path: Path) -> str:
    """One of `OF_TORCH` and `OF_SAFETENSORS`, or in words what else it is.

    Raises CheckpointError where the file is empty or cut short, OSError where it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError("the file is empty (0 bytes); save or copy it again")
    if head.startswith(b"PK\x03\x04"):
        return _content_of_zip(path)
    if head.startswith(_LEGACY_MAGIC):
        return "torch-legacy"
    if _has_header(head) or (len(head) < 9 and path.suffix == ".safetensors"):
        return "safetensors"
    if head.lstrip().startswith(b"{") and path.suffix == ".json":
        return "safetensors-sharded"
    return _foreign(head)


def _has_header(head: bytes) -> bool:
    """Whether `head` opens as safetensors does: a plausible length, then a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER


def _content_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            "the file is truncated: it opens as a zip archive of torch.save, but its directory, "
            "which comes last, is missing; save or copy it again"
        ) from error
    except Exception as error:  # a broken file may fail in any way: name it
        raise CheckpointError(f"its zip directory is broken: {first_line(error)}") from error
    names = [entry.filename for entry in entries]
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" not in inner:
        what = "a numpy .npz archive" if names and names[0].endswith(".npy") else "a zip archive"
        return f"{what} of {', '.join(names[:3]) or 'nothing'}"
    if "constants.pkl" in inner:
        return "torchscript"
    # the tensors are mapped: compressed bytes would pass for numbers, and a few of them may unpack to GBs
    packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise CheckpointError(
            f"'{packed}' in it is compressed, which torch.save never does: unpack the archive, and zip it "
            "without compression (zip -0)"
        )
    return "torch-zip"


def _foreign(head: bytes) -> str:
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            return what
    is_text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
    return "a text file" if is_text else "bytes of no known format"
