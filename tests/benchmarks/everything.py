"""All benchmarks, some 20 minutes on 2 cores; writes what they find into the README's table.

python tests/benchmarks/everything.py [--quick] [--readme README.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import against_forward
import against_published
import batch
import memory
import store_throughput
from measuring import HEAD, Figure

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- written by make bench -->", "<!-- until here -->"


def figures(shrink: int) -> Iterator[Figure]:
    """The whole table; all rows and checkpoints are divided by `shrink`."""
    few, many = (1, 1) if shrink > 1 else (3, 7)
    cores = os.cpu_count() or 1
    threads = sorted({1, cores})
    forward = against_forward.figures
    yield from against_published.figures(4_000 // shrink, 256, 8, rounds=few)
    for count in threads:
        yield from forward(20_000 // shrink, 512, 8, rounds=many, threads=count)
    for width in (64, 256, 1024, 2048):
        rounds = few if width < 2048 else 1
        yield from forward(20_000 // shrink, width, 8, rounds=rounds, threads=cores)
    for rows in (1_000, 100_000, 1_000_000):
        yield from forward(rows // shrink, 512, 8, rounds=few if rows < 10**6 else 1, threads=cores)
    yield from batch.figures(70 // min(shrink, 35), 1_000 // shrink, 256, 8, workers=threads, rounds=few)
    yield from store_throughput.figures(40_000 // shrink, 512, 6, rounds=many)
    sizes = [count // shrink for count in (10_000, 100_000, 1_000_000)]
    yield from memory.figures(sizes, (256, 512, 1024, 2048), (4, 8, 16), rounds=many)


def machine() -> str:
    """When and on what: a sentence."""
    when = datetime.now(UTC).strftime("%B %Y")
    return f"Measured by `make bench` in {when} on {os.cpu_count()} cores ({platform.machine()}):"


def put_into(readme: Path, table: str) -> None:
    """Replace what stands between the marks."""
    text = readme.read_text(encoding="utf-8")
    marked = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    if not marked.search(text):
        raise SystemExit(f"{readme}: holds no '{BEGIN}' ... '{END}'")
    readme.write_text(marked.sub(lambda _: f"{BEGIN}\n{table}\n{END}", text), encoding="utf-8")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="A fiftieth of the rows: does it run?")
    parser.add_argument("--readme", type=Path, default=README)
    asked = parser.parse_args()
    lines = []
    for line in chain((machine(), "", HEAD), figures(50 if asked.quick else 1)):
        print(line, flush=True)
        lines.append(str(line))
    put_into(asked.readme, "\n".join(lines))


if __name__ == "__main__":
    main()
