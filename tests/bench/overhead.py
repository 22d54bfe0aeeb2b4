"""What recording and guarding add to the time of a step of `fit`.

Six arms take turns in one process, each with its own copy of the network, which starts every round from the same
weights:

- bare: `fit` without a callback, for which Keras does not wait for a step before it starts the next; with a callback that
  is told of each batch, such as Keras' own progress bar, it does;
- plain: `fit` with a callback that reads the clock, as the arms below have it too;
- recorder, guard, both: `CurveRecorder`, `SpikeGuard` around Adam, the two together;
- replay: `CurveRecorder` that also keeps the rows and states that replays need, as GuardedTrainer's does. Replays themselves
  come after the training and have a budget of their own: here it is nothing, as each round's first losses, high above the
  last ones of the round before, would be replayed.

A ratio divides by the plain or the bare part of the same round. The recorder's blocks and TensorBoard events are written
within the time: each part lasts several blocks of the default length.

    python -m tests.bench.overhead --rounds 15 --steps 768
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import spikeguard
from spikeguard.components.guarded_trainer.replay_keeper import ReplayBudget
from tests.bench import RESULTS

ARMS = ("bare", "plain", "recorder", "replay", "guard", "both")
_BASES = ("plain", "bare")
# Steps that a part's clock leaves out: Keras starts its input there.
_FIRST = 8
_NETWORKS = ("dense", "convolution")
_BATCH, _LARGE_BATCH = 256, 4096
_GOAL = 1.03


@dataclasses.dataclass(frozen=True)
class Case:
    """One network at one batch size."""

    network: str
    batch_size: int

    def data(self) -> tf.data.Dataset:
        """Batches from memory, without end."""
        if self.network == "dense":
            x = np.random.default_rng(0).normal(size=(20 * self.batch_size, 20)).astype("float32")
            y = x[:, :5].sum(axis=1, keepdims=True)
        else:
            digits = load_digits()
            x, y = digits.images[..., None].astype("float32") / 16.0, digits.target
            x, y = (np.resize(part, (7 * self.batch_size, *part.shape[1:])) for part in (x, y))
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(self.batch_size).cache().repeat()
        return data.prefetch(tf.data.AUTOTUNE)

    def model(self, is_guarded: bool) -> keras.Model:
        """The network, compiled."""
        keras.utils.set_random_seed(1)
        if self.network == "dense":
            first: Any = keras.Input((20,))
            layers = [keras.layers.Dense(width, activation="relu") for width in (64, 32)]
            last, loss = keras.layers.Dense(1), "mse"
        else:
            first = keras.Input((8, 8, 1))
            layers = [keras.layers.Conv2D(width, 3, activation="relu") for width in (16, 32)]
            layers += [keras.layers.Flatten(), keras.layers.Dense(64, activation="relu")]
            last, loss = keras.layers.Dense(10, activation="softmax"), "sparse_categorical_crossentropy"
        model = keras.Sequential([first, *layers, last])
        adam = keras.optimizers.Adam(1e-3)
        model.compile(spikeguard.SpikeGuard(adam) if is_guarded else adam, loss)
        return model


@dataclasses.dataclass(frozen=True)
class Part:
    """One fit of one arm in one round."""

    network: str
    batch_size: int
    arm: str
    round: int
    seconds: float
    """Per step."""
    interventions: int
    """Of the guard."""
    load: float
    """Of the machine over the last minute, when the part began."""


class _Clock(keras.callbacks.Callback):  # type: ignore[misc]
    """From the end of the first steps to the end of training, the recorder's last block included."""

    seconds = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch == _FIRST - 1:
            self._started = time.perf_counter()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.seconds = time.perf_counter() - self._started


class _Training:
    """One arm of one case; the step is traced at construction and never again."""

    def __init__(self, case: Case, arm: str, folder: pathlib.Path) -> None:
        self._arm = arm
        self._model, self._data, self._clock = case.model(arm in ("guard", "both")), case.data(), _Clock()
        self._callbacks = [] if arm == "bare" else [self._clock]
        if arm in ("recorder", "replay", "both"):
            budget = ReplayBudget(time_share=0.0, least_seconds=0.0)
            recorder = spikeguard.CurveRecorder(folder / arm, replay=budget if arm == "replay" else False)
            self._callbacks.insert(0, recorder)
        self._model.optimizer.build(self._model.trainable_variables)
        # A guard's variables include those of the optimizer in it.
        self._state = [(variable, variable.numpy()) for variable in self._variables()]
        self._fit(2 * _FIRST)

    def _variables(self) -> list[keras.Variable]:
        found = [*self._model.variables, *self._model.optimizer.variables]
        return list({id(variable): variable for variable in found}.values())

    def _fit(self, steps: int) -> float:
        started = time.perf_counter()
        self._model.fit(self._data, epochs=1, steps_per_epoch=steps, verbose=0, callbacks=list(self._callbacks))
        return time.perf_counter() - started

    def seconds(self, steps: int) -> float:
        """Time per step over a fit of so many, from the first weights on."""
        for variable, value in self._state:
            variable.assign(value)
        if self._arm != "bare":
            self._fit(steps)
            return self._clock.seconds / (steps - _FIRST)
        # Nothing may look at the batches: what a fit takes besides its steps is measured by a fit of few.
        short = self._fit(_FIRST)
        return (self._fit(steps) - short) / (steps - _FIRST)

    def interventions(self) -> int:
        """Of the guard since the first weights."""
        optimizer = self._model.optimizer
        return len(optimizer.events()) if isinstance(optimizer, spikeguard.SpikeGuard) else 0


def cases() -> list[Case]:
    """What this machine can measure; large batches only where there is a GPU."""
    sizes = [_BATCH, *([_LARGE_BATCH] if tf.config.list_physical_devices("GPU") else [])]
    return [Case(network, size) for size in sizes for network in _NETWORKS]


def measure(rounds: int, steps: int, chosen: Sequence[Case], arms: Sequence[str] = ARMS) -> list[Part]:
    """Times every arm once per round; the arms' order rotates from round to round.

    Args:
      rounds: >= 1.
      steps: per part; a multiple of the recorder's block, 256, shares its cost out evenly.
      chosen: networks and batch sizes.
      arms: subset of `ARMS`.
    """
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        trainings = {
            (case, arm): _Training(case, arm, pathlib.Path(folder) / f"{case.network}-{case.batch_size}")
            for case in chosen
            for arm in arms
        }
        for number in range(rounds):
            for case in chosen:
                for shift in range(len(arms)):
                    arm = arms[(number + shift) % len(arms)]
                    training, load = trainings[case, arm], os.getloadavg()[0]
                    seconds = training.seconds(steps)
                    parts.append(
                        Part(case.network, case.batch_size, arm, number, seconds, training.interventions(), load)
                    )
    return parts


@dataclasses.dataclass(frozen=True)
class Summary:
    """One arm of one case over all rounds."""

    network: str
    batch_size: int
    arm: str
    milliseconds: float
    """Median per step."""
    ratios: dict[str, tuple[float, float, float]]
    """By what is divided by, plain or bare: lower quartile, median and upper quartile of the rounds' ratios."""


def summarize(parts: Sequence[Part]) -> list[Summary]:
    """One row per case and arm, in the order of the first round."""
    seconds = {(part.network, part.batch_size, part.arm, part.round): part.seconds for part in parts}
    found = []
    for network, size in dict.fromkeys((part.network, part.batch_size) for part in parts):
        numbers = sorted({part.round for part in parts})
        for arm in ARMS:
            if (network, size, arm, 0) not in seconds:
                continue
            times = [seconds[network, size, arm, number] for number in numbers]
            ratios = {}
            for base in _BASES:
                if base != arm and (network, size, base, 0) in seconds:
                    divisors = [seconds[network, size, base, number] for number in numbers]
                    low, middle, high = np.quantile(np.divide(times, divisors), [0.25, 0.5, 0.75]).tolist()
                    ratios[base] = (low, middle, high)
            found.append(Summary(network, size, arm, 1e3 * statistics.median(times), ratios))
    return found


_HEADER = ("network", "batch", "arm", "ms per step", *(f"over {base} (quartiles)" for base in _BASES))


def _rows(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    def cell(ratio: tuple[float, float, float] | None) -> str:
        return "" if ratio is None else f"{ratio[1]:.3f} ({ratio[0]:.3f} to {ratio[2]:.3f})"

    return [
        (
            one.network,
            str(one.batch_size),
            one.arm,
            f"{one.milliseconds:.3f}",
            *(cell(one.ratios.get(base)) for base in _BASES),
        )
        for one in summaries
    ]


def report(parts: Sequence[Part], steps: int, folder: pathlib.Path) -> list[Summary]:
    """Prints the table; writes it as Markdown, and every part and the summaries as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries, loads = summarize(parts), [part.load for part in parts]
    rounds = len({part.round for part in parts})
    title = (
        f"Time of a step: {rounds} rounds of {steps} steps, {os.cpu_count()} cores, load {min(loads):.1f} to "
        f"{max(loads):.1f}, TensorFlow {tf.__version__}, Keras {keras.__version__}"
    )
    table = Table(*_HEADER, title=title)
    for row in _rows(summaries):
        table.add_row(*row)
    Console(width=140).print(table)
    lines = ["| " + " | ".join(row) + " |" for row in (_HEADER, ["---"] * len(_HEADER), *_rows(summaries))]
    notes = (
        f"Ratios divide parts of the same round; the goal for all but bare is a median of at most {_GOAL} "
        "over plain. Plain has a callback that reads the clock after each batch, as the arms below it do; bare has "
        "none, and Keras then does not wait for a step before it starts the next."
    )
    (folder / "overhead.md").write_text(f"# {title}\n\n" + "\n".join(lines) + f"\n\n{notes}\n")
    content = {
        "summary": [dataclasses.asdict(one) for one in summaries],
        "parts": [dataclasses.asdict(part) for part in parts],
        "rounds": rounds,
        "steps": steps,
        "load": os.getloadavg(),
    }
    (folder / "overhead.json").write_text(json.dumps(content, allow_nan=False, indent=1) + "\n")
    return summaries


def main(argv: Sequence[str] | None = None) -> list[Summary]:
    """Measures and reports from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=768, help="per part; a multiple of 256, the recorder's block")
    parser.add_argument("--networks", default=",".join(_NETWORKS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder")
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {given.rounds}.")
    if given.steps <= _FIRST:
        parser.error(f"--steps must be more than {_FIRST}; got {given.steps}.")
    for name, choices in (("networks", _NETWORKS), ("arms", ARMS)):
        if unknown := sorted(set(getattr(given, name).split(",")) - set(choices)):
            parser.error(f"--{name} must name some of {', '.join(choices)}; got {', '.join(unknown)}.")
    chosen = [case for case in cases() if case.network in given.networks.split(",")]
    return report(measure(given.rounds, given.steps, chosen, given.arms.split(",")), given.steps, given.output)


@pytest.mark.bench
def test_overhead() -> None:
    assert len(main([])) == len(cases()) * len(ARMS)


@pytest.mark.e2e
def test_smoke_of_the_overhead_bench(tmp_path: pathlib.Path) -> None:
    summaries = main(["--rounds", "1", "--steps", "20", "--output", str(tmp_path)])
    names = [(case.network, case.batch_size, arm) for case in cases() for arm in ARMS]
    assert [(one.network, one.batch_size, one.arm) for one in summaries] == names
    assert [sorted(one.ratios) for one in summaries[:3]] == [["plain"], ["bare"], ["bare", "plain"]]
    content = json.loads((tmp_path / "overhead.json").read_text())
    assert [(part["network"], part["batch_size"], part["arm"]) for part in content["parts"]] == names
    assert content["steps"] == 20
    assert len(content["summary"]) == len(names)
    assert (tmp_path / "overhead.md").read_text().count("| dense | 256 |") == len(ARMS)


def test_ratios_are_of_the_same_round() -> None:
    times = {"plain": (1.0, 4.0, 10.0), "recorder": (1.1, 4.0, 13.0)}
    parts = [
        Part("dense", 256, arm, number, 1e-3 * value, 0, 0.0)
        for arm, values in times.items()
        for number, value in enumerate(values)
    ]
    plain, recorder = summarize(parts)
    assert (plain.milliseconds, plain.ratios) == (4.0, {})
    assert recorder.ratios["plain"] == pytest.approx((1.05, 1.1, 1.2))


if __name__ == "__main__":
    main()
