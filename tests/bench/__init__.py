"""Benches: run by hand, not part of CI but for a tiny run of each."""

import pathlib

# Where they write; ignored by git.
RESULTS = pathlib.Path(__file__).parent.parent.parent / "bench_results"
