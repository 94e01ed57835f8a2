"""Seeded damage to the bytes of a file: as disks, copies, editors and attackers do it. Pure."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random

CANARY = "canary"
"""What code from a file would make: a folder of this name."""

_HUGE = (2**31 - 1, 2**32 - 1, 10**12, 2**40, 2**62, 2**63 - 1, 2**64 - 1, 0, 1, 255)
_NUMBERS = (
    *("0", "1", "-1", "-0.0", "0.1", "1e400", "-1e308", "1e-400", "1000000000000", "9223372036854775808"),
    *(
        "1" * 300,
        "NaN",
        "nan",
        "Infinity",
        "-inf",
        "true",
        "null",
        '"1"',
        "[1]",
        "{}",
        "1e308",
        "0x10",
        "1_0",
    ),
)
_WORDS = (
    *("[red]x[/]", "\\u001b[2J", "\x1b]0;x\x07", "\u202ex", "a\\nb", "\n", "\x9b2J", "\\ud800", "a\\u0000b"),
    *("/etc/passwd", "/dev/zero", "/proc/self/mem", "../../../../etc/shadow", "~nobody-there", ".", "/"),
    *(
        f"{CANARY}_module:touch",
        "os:system",
        "",
        "x" * 5000,
        "<script>",
        "'",
        "%s",
        "$HOME",
        "*",
        "0:1000000000",
    ),
)


def damage(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """`content` after one to three mutations; others: what else pieces may come from.

    Half of the archives and of the files with a header of JSON are damaged inside, with check sums and
    lengths set right again: whoever reads them gets past the first gate.
    """
    if content.startswith(b"PK") and rng.random() < 0.6:
        return _inside_zip(content, rng, others)
    if content[8:10] == b'{"' and rng.random() < 0.6:
        return _inside_safetensors(content, rng, others)
    return _damaged(content, rng, others)


def _damaged(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = rng.choice(_kinds(content))(content, rng, others)
    return content


Mutation = Callable[[bytes, Random, Sequence[bytes]], bytes]


def _kinds(content: bytes) -> Sequence[Mutation]:
    if content.startswith(b"\x80"):
        return (*_OF_BYTES, *[_run_code] * 5, _lie, _lie)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return (*_OF_BYTES, _lie, _lie)
    return _OF_BYTES if "\0" in text else (*_OF_TEXT, *_OF_TEXT, *_OF_BYTES)


# ---- inside containers


def _inside_zip(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """One member damaged, or the members renamed, doubled or left out; the archive itself is sound."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        method = archive.infolist()[0].compress_type
    # torch's tensors are numbers of which any is good: what tells their shapes is more telling
    weights = [4 if name.endswith((".pkl", ".npy")) else 1 for name, _ in members]
    place = rng.choices(range(len(members)), weights)[0]
    name, inner = members[place]
    kind = rng.random()
    if kind < 0.85:
        members[place] = (name, _damaged(inner, rng, others))
    elif kind < 0.9:
        del members[place]
    elif kind < 0.95:
        members.insert(rng.randrange(len(members)), (rng.choice(members)[0], inner))
    else:
        members[place] = (rng.choice(("../" + name, "/" + name, name.upper(), "[red]x[/].npy", "")), inner)
    return _zipped(members, method)


def _zipped(members: Sequence[tuple[str, bytes]], method: int) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, inner in members:
            entry = zipfile.ZipInfo(name or "x")
            entry.compress_type = method
            with warnings.catch_warnings(action="ignore"):  # of names that are there twice
                archive.writestr(entry, inner)
    return target.getvalue()


def _inside_safetensors(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Its JSON damaged, and its length said right."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = _damaged(content[8:end], rng, others)
    return struct.pack("<Q", len(header)) + header + content[end:]


# ---- of any bytes


def _flip_bits(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut_end(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _cut_out(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    start, length = _span(content, rng)
    return content[:start] + content[start + length :]


def _insert(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    start, length = _span(content, rng)
    return content[:start] + rng.choice((bytes(length), rng.randbytes(length))) + content[start:]


def _overwrite(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    start, length = _span(content, rng)
    filling = rng.choice((b"\0", b"\xff", b"["))
    return content[:start] + filling * length + content[start + length :]


def _repeat(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    start, length = _span(content, rng)
    return (
        content[:start] + content[start : start + length] * rng.choice((2, 2, 50)) + content[start + length :]
    )


def _splice(content: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    start, length = _span(other, rng)
    place, replaced = _span(content, rng)
    return content[:place] + other[start : start + length] + content[place + replaced :]


def _span(content: bytes, rng: Random) -> tuple[int, int]:
    """Where something begins, mostly in the first or last KB where headers stand, and how long it is."""
    size = len(content)
    start, end = rng.choice(((0, size), (0, min(size, 1024)), (max(0, size - 1024), size)))
    return rng.randint(start, end), rng.choice((1, 2, 4, 8, 16, 100))


def _lie(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    """A binary number, which may be a size, replaced by a huge one."""
    start, _ = _span(content, rng)
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(_HUGE) % 256**width
    return content[:start] + value.to_bytes(width, rng.choice(("little", "big"))) + content[start + width :]


# ---- of text, also in the headers of binary files


_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_QUOTED = re.compile(r"(['\"])([^'\"\n]*)\1")
_ENTRY = re.compile(r"\"[^\"\n]*\": ?(\"[^\"\n]*\"|[^,{}\[\]\n]+),?")


def _change_number(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return _replaced(content, _NUMBER, rng, lambda _: rng.choice(_NUMBERS))


def _change_word(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return _replaced(content, _QUOTED, rng, lambda found: f"{found[1]}{rng.choice(_WORDS)}{found[1]}")


def _change_kind(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return _replaced(content, _QUOTED, rng, lambda _: rng.choice(_NUMBERS))


def _double_key(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return _replaced(content, _ENTRY, rng, lambda found: f"{found[0].rstrip(',')}, {found[0]}")


def _double_line(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    lines = content.decode().splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return "".join(lines).encode()


def _nest(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    depth = rng.choice((10, 2000, 100_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    return _replaced(
        content, _NUMBER, rng, lambda _: opening * depth + "1" + closing * rng.choice((0, depth))
    )


def _replaced(
    content: bytes, what: re.Pattern[str], rng: Random, by: Callable[[re.Match[str]], str]
) -> bytes:
    """One match of `what` in the text replaced; the content itself where it has none, or is no text."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    found = list(what.finditer(text))
    if not found:
        return content
    one = rng.choice(found)
    return (text[: one.start()] + by(one) + text[one.end() :]).encode(errors="surrogatepass")


# ---- of pickles


def _run_code(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    """A call that makes a folder, where one of the pickles in the file begins."""
    begins = [found.end() for found in re.finditer(rb"\x80[\x02-\x05]", content)]
    # the first of several is torch's own mark, which tells the format
    start = rng.choice(begins[1:] or begins or [0])
    return content[:start] + rng.choice(_CALLS) + content[start:]


_CALLS = (
    f"cposix\nmkdir\n(V{CANARY}\ntR0".encode(),
    f"cbuiltins\nexec\n(Vimport os; os.mkdir('{CANARY}')\ntR0".encode(),
    f"(V{CANARY}\niposix\nmkdir\n0".encode(),
    f"c{CANARY}_module\ntouch\n0".encode(),
)

_OF_BYTES: tuple[Mutation, ...] = (
    _flip_bits,
    _cut_end,
    _cut_out,
    _insert,
    _overwrite,
    _repeat,
    _splice,
    _lie,
)
_OF_TEXT: tuple[Mutation, ...] = (
    *(_change_number, _change_number, _change_word, _change_word, _change_kind),
    *(_double_key, _double_line, _nest),
)


def is_strict_json(text: str) -> bool:
    """Whether `text` is JSON without NaN and Infinity."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True
