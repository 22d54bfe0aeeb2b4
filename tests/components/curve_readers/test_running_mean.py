from __future__ import annotations

import numpy as np
import pytest

from spikeguard.components.curve_readers.running_mean import batch_losses, epoch_starts, is_running_mean

EPOCHS, BATCHES = 4, 150
STEP = np.arange(1, EPOCHS * BATCHES + 1)
START = np.repeat(np.arange(EPOCHS) * BATCHES, BATCHES)


def _losses(seed: int, noise: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (1 + 2 * np.exp(-STEP / 200)) * np.exp(noise * rng.normal(size=len(STEP)))


def _means(loss: np.ndarray) -> np.ndarray:
    by_epoch = loss.reshape(EPOCHS, BATCHES)
    return (np.cumsum(by_epoch, axis=1) / np.arange(1, BATCHES + 1)).ravel()


def test_losses_come_back_when_every_batch_is_logged() -> None:
    loss = _losses(0)
    recovered, kept = batch_losses(STEP, _means(loss), START)
    np.testing.assert_allclose(recovered, loss, rtol=1e-9)
    assert kept.all()


def test_mean_of_the_batches_between_comes_back_when_every_third_is_logged() -> None:
    loss = _losses(0)
    logged = STEP % 3 == 0
    recovered, _ = batch_losses(STEP[logged], _means(loss)[logged], START[logged])
    np.testing.assert_allclose(recovered, loss.reshape(-1, 3).mean(axis=1), rtol=1e-9)


def test_only_the_first_of_an_epoch_is_kept_when_means_are_not_finite() -> None:
    mean = [1.0, np.nan, np.nan, np.nan, 2.0, np.inf, np.inf]
    loss, kept = batch_losses([1, 2, 3, 4, 5, 6, 7], mean, [0, 0, 0, 0, 4, 4, 4])
    assert kept.tolist() == [True, True, False, False, True, True, False]
    np.testing.assert_array_equal(loss[kept], [1.0, np.nan, 2.0, np.inf])


@pytest.mark.parametrize(
    ("logged", "epochs", "last", "expected"),
    [
        ([1, 2, 3, 4, 5], [0, 1], [2, 5], [0, 0, 2, 2, 2]),  # Epochs of different lengths.
        ([3, 6, 9, 12, 15, 18, 21, 24], [0, 1], [9, 21], [0, 0, 0, 11, 11, 11, 11, 22]),  # 11 a epoch, every third.
        ([3, 6, 9, 12, 33, 36], [2], [33], [0, 0, 0, 11, 22, 33]),  # The ends of the epochs 0 and 1 are not known.
        ([101, 102, 103, 104], [5], [102], [100, 100, 102, 102]),  # A training that went on.
        ([0, 1, 2, 3], [0], [1], [-1, -1, 1, 1]),  # Steps from 0.
        ([4, 5], [], [], [3, 3]),
    ],
)
def test_start_of_epoch_is_found(logged: list[int], epochs: list[int], last: list[int], expected: list[int]) -> None:
    assert epoch_starts(logged, epochs, last).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_running_mean_is_told_from_batch_losses(seed: int, noise: float) -> None:
    loss = _losses(seed, noise)
    assert is_running_mean(STEP, START, _means(loss))
    assert not is_running_mean(STEP, START, loss)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("seed", range(5))
def test_smoothed_losses_are_no_running_mean(seed: int, decay: float) -> None:
    smooth = _losses(seed)
    for place in range(1, len(smooth)):
        smooth[place] = decay * smooth[place - 1] + (1 - decay) * smooth[place]
    assert not is_running_mean(STEP, START, smooth)


@pytest.mark.parametrize(
    "loss",
    [1 / STEP, np.exp(-STEP / 50), np.full(len(STEP), 0.7), 3 / np.sqrt(STEP), np.log(STEP - START)],
    ids=["inverse", "exponential", "constant", "root", "anew in each epoch"],
)
def test_smooth_descent_is_no_running_mean(loss: np.ndarray) -> None:
    assert not is_running_mean(STEP, START, loss)


def test_mean_that_goes_on_over_epochs_is_no_running_mean_of_epochs() -> None:
    loss = _losses(0)
    assert not is_running_mean(STEP[BATCHES:], START[BATCHES:], (np.cumsum(loss) / STEP)[BATCHES:])


def test_one_epoch_tells_nothing() -> None:
    assert not is_running_mean(STEP[:BATCHES], START[:BATCHES], _means(_losses(0))[:BATCHES])
