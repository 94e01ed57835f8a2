"""`python -m nrc_probe` is `nrc-probe`: its first lines, interruptible before anything is imported."""

import sys


def start() -> None:
    """Run the command line; Ctrl-C ends it in one line even while its modules load."""
    try:
        from nrc_probe.cli import main

        main()
    except KeyboardInterrupt:
        if sys.stderr:
            sys.stderr.write("nrc-probe: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    start()
