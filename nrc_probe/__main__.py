"""`python -m nrc_probe` is `nrc-probe`."""

from nrc_probe.cli import main

main()
