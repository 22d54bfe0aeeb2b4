"""What replays of spikes cost: their time over that of the training before them, by the recorder's own budget.

    python -m tests.bench.replay_cost --steps 300,1000 --rounds 5

A guarded training as GuardedTrainer does it by default (Adam under a SpikeGuard, Huber's loss, batches of 256 rows with ids,
two hidden layers), with a spoiled row in some batches. The time of the training includes what Keras traces for it.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from spikeguard.components.guarded_trainer import recorder as recording
from spikeguard.components.guarded_trainer.guard import SpikeGuard
from spikeguard.components.guarded_trainer.losses import Huber
from spikeguard.components.spike_evaluator.causes.replays import read_replays
from tests.bench import RESULTS

_BATCH, _EPOCH_STEPS, _FEATURES = 256, 100, 12
_SPOILED = (35, 65, 90)
_GOAL = 0.1


def _batches(batch: int) -> tf.data.Dataset:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch * _EPOCH_STEPS, _FEATURES)).astype("float32")
    y = 2 * x[:, :1] + np.sin(x[:, 1:2]) + generator.standard_t(3, size=(len(x), 1)).astype("float32")
    for step in _SPOILED:
        x[batch * step + 3] *= 300.0
    inputs: dict[str, Any] = {f"f{place}": x[:, [place]] for place in range(_FEATURES)}
    rows = tf.data.Dataset.from_tensor_slices(({**inputs, "example_id": np.arange(len(x))}, y))
    return rows.batch(batch, drop_remainder=True).cache().repeat().prefetch(2)


def _model(is_guarded: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = {f"f{place}": keras.Input((1,), name=f"f{place}") for place in range(_FEATURES)}
    hidden = keras.layers.Concatenate()(list(inputs.values()))
    for units in (64, 32):
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    adam = keras.optimizers.Adam(1e-3)
    model.compile(SpikeGuard(adam) if is_guarded else adam, Huber(1.0))
    return model


def measure(steps: int, batch: int = _BATCH, is_guarded: bool = True) -> dict[str, float]:
    """Seconds of one training and of the replays after it, and how many spikes and changes were replayed."""
    spent = []
    replay_kept = recording.replay_kept

    def timed(*args: Any) -> None:
        started = time.monotonic()
        replay_kept(*args)
        spent.append(time.monotonic() - started)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(recording, "replay_kept", timed):
        recorder = recording.CurveRecorder(pathlib.Path(folder), replay=True)
        started = time.monotonic()
        _model(is_guarded).fit(
            _batches(batch),
            epochs=-(-steps // _EPOCH_STEPS),
            steps_per_epoch=min(steps, _EPOCH_STEPS),
            callbacks=[recorder],
            verbose=0,
        )
        fit = time.monotonic() - started - spent[0]
        replayed = [one for one in read_replays(folder)[0] if "figures" in one]
    changes = sum(len(one["changes"]) for one in replayed)
    return {"steps": steps, "fit": fit, "replay": spent[0], "spikes": len(replayed), "changes": changes}


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="300,1000")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    lines = [
        f"Load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {options.rounds} rounds, the least and the most"
        f" in brackets; goal {_GOAL:.0%}.",
        "",
        "| steps | training, s | replays, s | share | spikes replayed | changes |",
        "|---|---|---|---|---|---|",
    ]
    outcomes = []
    for steps in map(int, options.steps.split(",")):
        rounds = [measure(steps) for _ in range(options.rounds)]
        outcomes += rounds
        shares = [one["replay"] / one["fit"] for one in rounds]
        fit, replay, spikes, changes = (
            statistics.median(one[name] for one in rounds) for name in ("fit", "replay", "spikes", "changes")
        )
        share = f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"
        lines.append(f"| {steps} | {fit:.1f} | {replay:.2f} | {share} | {spikes:g} | {changes:g} |")
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "replay_cost.json").write_text(json.dumps(outcomes, indent=1))
    (RESULTS / "replay_cost.md").write_text(text)
    Console(soft_wrap=True, highlight=False, markup=False).print(text)
    return text


@pytest.mark.bench
def test_replay_cost_bench() -> None:
    assert "| 1000 |" in main([])


def test_smoke_run_of_the_bench_replays_a_spike() -> None:
    outcome = measure(steps=100, batch=16, is_guarded=False)
    assert outcome["spikes"] >= 1


if __name__ == "__main__":
    main()
