"""The conductor of a folder: which checkpoints, by how many processes, until all have their turn."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Unpack

from nrc_probe.assembly import Options, SharedOptions, check_request, data_files, read_request
from nrc_probe.discovery import find_checkpoints, matches
from nrc_probe.errors import CheckpointError, ConfigError, OutputError, ProbeError
from nrc_probe.sweep.crew import score_together
from nrc_probe.sweep.outcome import TAKEN, Interrupted, Outcome, Sweep
from nrc_probe.sweep.queue import Queue
from nrc_probe.sweep.scorer import Errand, Scorer

Progress = Callable[[Outcome, int, int], None]
"""Called after every checkpoint: what became of it, how many are done, how many there are.

And once for each that has to wait for another process: its state is then "taken".
"""
_Outcomes = Generator[Outcome, None, None]
_MOST_WORKERS = 256
_IDLE_SECONDS = 0.05


def batch(
    folder: str | Path,
    output: str | Path,
    data: str | Path | None = None,
    *,
    include: Sequence[str] | str = (),
    exclude: Sequence[str] | str = (),
    exclude_layers: Sequence[str] | str = (),
    workers: int = 1,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Unpack[SharedOptions],
) -> Sweep:
    """Score every checkpoint below `folder`; each result is a JSON file below `output`.

    What was scored before, of the same content, data and settings, is left as it is. A checkpoint
    that fails is recorded in its `*.failed.json` and tried again next time. Several processes, also
    of several machines, can share one output folder.
    data: a file or a factory; live data has no fingerprint, and is refused.
    include, exclude: globs on the checkpoints' paths below `folder`, or their names.
    exclude_layers: what `analyze` calls exclude. force: make again what is there.
    dry_run: only say what would be done. options: as `analyze`.
    Raises ProbeError where nothing can be done at all; Interrupted after Ctrl-C, when the running
    checkpoint is finished (a second one ends at once).
    """
    layers = {"exclude": _globs(exclude_layers)} if exclude_layers else {}
    errand = Errand(
        folder=Path(folder),
        output=Path(output),
        data=None if data is None else _path("data", data),
        options=_checked({**options, **layers}),  # type: ignore[typeddict-item]  # the two together
        force=force,
        dry_run=dry_run,
    )
    workers = _checked_workers(workers)
    names = _names(errand, _globs(include), _globs(exclude))
    if not dry_run:
        _prepare(errand.output)
    outcomes = _outcomes(errand, names, workers, progress)
    return Sweep(errand.folder, errand.output, outcomes, _unmatched(errand.folder, _globs(exclude)))


def _outcomes(
    errand: Errand, names: Sequence[str], workers: int, progress: Progress | None
) -> tuple[Outcome, ...]:
    """What becomes of each checkpoint, in the order of `names`."""
    found: dict[str, Outcome] = {}
    waited_for: set[str] = set()
    queue = Queue(names)
    workers = min(workers, len(names))
    with _stopping_on_interrupt() as stopped, closing(_scored(queue, errand, workers, stopped)) as outcomes:
        for outcome in outcomes:
            name = outcome.checkpoint
            if outcome.state != TAKEN:
                found[name] = outcome
            else:
                queue.put_back(name)
                if name in waited_for:
                    continue
                waited_for.add(name)
            if progress:
                progress(outcome, len(found), len(names))
        if stopped():
            raise Interrupted(len(found), len(names))
    return tuple(found[name] for name in names)


def _scored(queue: Queue, errand: Errand, workers: int, stopped: Callable[[], bool]) -> _Outcomes:
    if workers == 1 or errand.dry_run:
        return _score_alone(queue, errand, stopped)
    threads = max(1, (errand.options.get("threads") or _cores()) // workers)
    options: Options = {**errand.options, "threads": threads}
    divided = Errand(errand.folder, errand.output, errand.data, options, errand.force)
    return score_together(queue, divided, workers, threads, stopped)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _score_alone(queue: Queue, errand: Errand, stopped: Callable[[], bool]) -> _Outcomes:
    scorer = Scorer(errand)
    while queue and not stopped():
        name = queue.next()
        if name is None:
            time.sleep(_IDLE_SECONDS)
            continue
        yield scorer.score(name)


@contextmanager
def _stopping_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, which ends nothing by itself; pressed again it does.

    Only the main thread can arrange that; in another one Ctrl-C stays what it is.
    """
    asked = threading.Event()
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler in (signal.SIG_IGN, None):
        yield asked.is_set
        return

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, handler)


# -------------------------------------------------------------------------------- before it begins


def _names(errand: Errand, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """The checkpoints' relative paths. Raises CheckpointError where there are none."""
    found = find_checkpoints(errand.folder, include, exclude)
    names = [str(path) for path in _without_data(found, errand)]
    if not names:
        asked = " with these --include and --exclude" if include or exclude else ""
        raise CheckpointError(
            f"{errand.folder}: no checkpoints below it{asked}; expected files such as 1.safetensors, "
            "1.pt, 1.pth, 1.ckpt, 1.bin"
        )
    return names


def _without_data(paths: Iterable[PurePosixPath], errand: Errand) -> Iterator[PurePosixPath]:
    """The paths but those that are named as data: a data set may end in .pt or .safetensors too."""
    data: dict[PurePosixPath, set[str]] = {}
    for path in paths:
        place = errand.folder / path
        if path.parent not in data:
            data[path.parent] = set(_data_of(place, errand))
        if os.path.realpath(place) not in data[path.parent]:
            yield path


def _data_of(checkpoint: Path, errand: Errand) -> Iterator[str]:
    try:
        config = read_request(checkpoint, errand.options, errand.data)
    except ProbeError:  # scoring it will say so
        return
    with suppress(ValueError):  # a null in the name; scoring it will say so
        # not Path.resolve, which some versions of Python refuse for a link that leads to itself
        yield from (os.path.realpath(path) for path in data_files(config))


def _unmatched(folder: Path, exclude: Sequence[str]) -> tuple[str, ...]:
    """A warning for each exclude pattern that means no checkpoint: it may have meant layers."""
    if not exclude:
        return ()
    there = find_checkpoints(folder)
    return tuple(
        f"--exclude '{pattern}' matches no checkpoint (layers are left out by --exclude-layers)"
        for pattern in exclude
        if not any(matches(path, pattern) for path in there)
    )


def _checked(options: Options) -> Options:
    """The options, if any checkpoint could be scored with them and other processes told of them."""
    heldout = options.get("heldout")
    if heldout is not None:
        options = {**options, "heldout": _path("heldout", heldout)}
    check_request(options)
    try:
        pickle.dumps(options)
    except Exception as error:  # whatever an object says against it
        raise ConfigError(f"batch takes options made of texts, numbers and lists ({error})") from error
    return options


def _globs(value: Sequence[str] | str) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _path(name: str, value: object) -> str:
    if not isinstance(value, str | Path):
        raise ConfigError(
            f"batch takes {name} from a file or a factory 'package.module:function', "
            f"got a {type(value).__name__}: without a fingerprint it could not be resumed"
        )
    return str(value)


def _checked_workers(workers: int) -> int:
    if not isinstance(workers, int) or isinstance(workers, bool) or not 1 <= workers <= _MOST_WORKERS:
        raise ConfigError(f"workers must be an integer from 1 to {_MOST_WORKERS}, got {workers!r}")
    return workers


def _prepare(output: Path) -> None:
    """Make the output folder. Raises OutputError where it cannot be one that is written to."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is no folder" if output.exists() else error.strerror or str(error)
        raise OutputError(f"cannot write below '{output}': {reason} (name another folder)") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write below '{output}': it is not writable (name another folder)")
