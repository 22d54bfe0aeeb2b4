from __future__ import annotations

import pathlib

import numpy as np
import pytest

from spikeguard.components.errors import InvalidArgumentError, InvalidDataError
from spikeguard.components.recorded_curve import STEP_SCHEMA, read_recorded, write_block
from spikeguard.components.training_curve import TrainingCurve


def _write(folder: pathlib.Path, first: int, losses: list[float]) -> None:
    n = len(losses)
    columns = {
        "step": np.arange(first, first + n),
        "epoch": np.zeros(n),
        "loss": losses,
        "batch_size": np.full(n, 32),
        "learning_rate": np.full(n, 0.1),
        "gradient_norm": np.full(n, 2.0),
    }
    write_block(folder / "curve", columns, STEP_SCHEMA)


def test_blocks_join_in_step_order(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, 3, [0.5, float("nan")])
    _write(tmp_path, 1, [2.0, 1.0])
    curve = read_recorded(tmp_path)
    np.testing.assert_array_equal(curve.step, [1, 2, 3, 4])
    np.testing.assert_array_equal(curve.loss, [2.0, 1.0, 0.5, np.nan])
    np.testing.assert_array_equal(curve.batch_size, [32] * 4)
    assert len(curve.validation_loss) == 0


def test_curve_folder_itself_can_be_read(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, 1, [1.0])
    assert len(read_recorded(tmp_path / "curve")) == 1


def test_unfinished_block_is_not_read(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, 1, [1.0])
    (tmp_path / "curve" / "steps-000000000002.tmp").write_bytes(b"half")
    assert len(read_recorded(tmp_path)) == 1


def test_error_names_the_block_when_it_is_cut(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, 1, [1.0])
    block = tmp_path / "curve" / "steps-000000000001.parquet"
    block.write_bytes(block.read_bytes()[:100])
    with pytest.raises(InvalidDataError, match=r"steps-000000000001.parquet: is not a readable curve block"):
        read_recorded(tmp_path)


def test_error_names_the_folder_when_it_holds_no_curve(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidDataError, match="holds no recorded training curve") as raised:
        read_recorded(tmp_path)
    assert raised.value.where == str(tmp_path)


def test_losses_must_have_one_dimension() -> None:
    with pytest.raises(InvalidArgumentError, match=r"loss must have one dimension; got 'shape \(1, 2\)'"):
        TrainingCurve.from_losses([[1.0, 2.0]])
