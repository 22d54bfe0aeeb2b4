"""`python -m spikeguard` is the command line."""

from spikeguard.cli import main

main(prog_name="spikeguard")
