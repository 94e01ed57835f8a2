"""`python -m nrc_probe` is `nrc-probe`: its first and last lines, so that Ctrl-C means the same anywhere."""

import signal
import sys
import time
from _thread import interrupt_main, start_new_thread

_SOON_SECONDS = 0.01


def start() -> None:
    """Run the command line; Ctrl-C ends it in one line even while its modules load, or it is all but over."""
    sys.unraisablehook = _not_lost
    try:
        from nrc_probe.cli import main

        main()
    except KeyboardInterrupt:
        if sys.stderr:
            sys.stderr.write("nrc-probe: interrupted\n")
        sys.exit(130)
    finally:
        # all is done and said: to Python, which takes a while to end, Ctrl-C would be an error
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _not_lost(what: "sys.UnraisableHookArgs") -> None:
    """Let Ctrl-C come again where Python drops it: in what it calls in passing, as an object's end."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        start_new_thread(_interrupt_soon, ())  # not here, from where it would be dropped again
    else:
        sys.__unraisablehook__(what)


def _interrupt_soon() -> None:
    time.sleep(_SOON_SECONDS)
    interrupt_main()


if __name__ == "__main__":
    start()
