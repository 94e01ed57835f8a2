"""`PYTHONPATH=tests python -m fuzz FORMAT FIRST [LAST]`: run cases again; what is wrong is printed.

Of a single case the folder is kept, with the file as it was damaged. (Stores tell when they were made, and
files of torch's older format where tensors lay in memory: they differ in a few bytes from run to run.)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fuzz.cases import Stock, run_case
from fuzz.worker import server


def _main(name: str, first: int, last: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    stock, codes, bad = Stock(folder / "sound"), Counter[int](), 0
    with server() as runner:
        for seed in range(first, last + 1):
            place = folder / f"{name}-{seed}"
            case = run_case(name, seed, stock, runner, place)
            codes[case.done.code] += 1
            bad += bool(case.wrong)
            if case.wrong or first == last:
                print(case, flush=True)
            if first == last:
                print(case.done.out, f"folder: {place}", sep="\n")
            else:
                shutil.rmtree(place)
    if first != last:
        shutil.rmtree(folder)
    counts = ", ".join(f"{count} with code {code}" for code, count in sorted(codes.items()))
    print(f"{name}: {last - first + 1} cases, {bad} wrong ({counts})")


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[-1]))
