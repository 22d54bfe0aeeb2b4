"""`python -m spikeguard` is the command line."""

from spikeguard.cli import main

if __name__ == "__main__":
    main(prog_name="spikeguard")
