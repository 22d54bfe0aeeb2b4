"""Logs as their tools write them, and what they are read as."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import spikeguard
from spikeguard.components.curve_readers.series import SeriesBuilder
from spikeguard.components.errors import InvalidDataError
from spikeguard.components.recorded_curve import STEP_SCHEMA, write_block


def _write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_all_columns_are_read_when_csv_has_them(tmp_path: pathlib.Path) -> None:
    text = "step,epoch,train_loss,lr,grad_norm,accuracy\n1,0,2.5,0.1,3,good\n2,0,nan,0.1,inf,bad\n3,1,1.5,0.05,,x\n"
    curve = spikeguard.read_curve(_write(tmp_path / "log.csv", text))
    assert (curve.kind, curve.loss_is, curve.notes) == ("step", "batch", ())
    np.testing.assert_array_equal(curve.step, [1, 2, 3])
    np.testing.assert_array_equal(curve.epoch, [0, 0, 1])
    np.testing.assert_array_equal(curve.loss, [2.5, np.nan, 1.5])
    np.testing.assert_array_equal(curve.learning_rate, [0.1, 0.1, 0.05])
    np.testing.assert_array_equal(curve.gradient_norm, [3.0, np.inf, np.nan])


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffStep;Loss\n5;2\n7;1\n",
        "iteration\tTrain Loss\n5\t2\n7\t1\n",
        '# made by hand\n"global_step","loss"\n"5"," 2.0"\n# half time\n7,1e0\n',
        "step,loss,val_loss\n5,2,\n7,1,\n",
        "step,loss\n5,2,extra\n7,1\n",
    ],
    ids=["semicolons", "tabs", "comments", "empty cells", "long row"],
)
def test_csv_is_read_when_it_is_written_otherwise(tmp_path: pathlib.Path, text: str) -> None:
    curve = spikeguard.read_curve(_write(tmp_path / "log.csv", text))
    assert curve.step.tolist() == [5, 7]
    assert curve.loss.tolist() == [2.0, 1.0]
    assert len(curve.validation_loss) == 0


def test_validation_rows_are_no_training_rows(tmp_path: pathlib.Path) -> None:
    text = "step,train_loss,val_loss\n1,2,\n2,1,\n2,,1.5\n3,0.5,\n"
    curve = spikeguard.read_curve(_write(tmp_path / "metrics.csv", text))
    assert (curve.loss.tolist(), curve.step.tolist()) == ([2, 1, 0.5], [1, 2, 3])
    assert (curve.validation_loss.tolist(), curve.validation_step.tolist()) == ([1.5], [2])


def test_steps_go_on_when_they_count_anew_in_each_epoch(tmp_path: pathlib.Path) -> None:
    text = "epoch,batch,loss\n0,0,4\n0,1,3\n1,0,2\n1,1,1\n"
    curve = spikeguard.read_curve(_write(tmp_path / "log.csv", text))
    assert curve.step.tolist() == [0, 1, 2, 3]
    assert curve.notes == ("batch counts anew in each epoch: the steps were numbered consecutively.",)


def test_steps_go_back_when_training_was_restarted(tmp_path: pathlib.Path) -> None:
    text = "epoch,step,loss,lr\n0,1,4,1\n1,2,3,2\nepoch,step,loss,lr\n0,1,2,3\n1,2,1,\n"
    curve = spikeguard.read_curve(_write(tmp_path / "log.csv", text))
    assert curve.step.tolist() == [1, 2, 1, 2]
    assert curve.loss.tolist() == [4, 3, 2, 1]
    np.testing.assert_array_equal(curve.learning_rate, [1, 2, 3, np.nan])
    assert curve.notes == ()


def test_steps_go_on_when_they_start_anew_again_and_again(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.csv"
    steps = [0, 10, 20, 30] * 3 + [0, 10]
    path.write_text("batch,loss\n" + "".join(f"{step},{1 + place}\n" for place, step in enumerate(steps)))
    curve = spikeguard.read_curve(path)
    assert curve.step.tolist() == list(range(0, 140, 10))
    assert curve.epoch.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    assert "taken for epochs" in curve.notes[0]
    # Once may be a restart from the beginning, and so may unequal stretches be.
    for restarted in ([0, 10, 20, 30] * 2, [0, 10, 20, 0, 10, 0, 10, 20, 30]):
        path.write_text("batch,loss\n" + "".join(f"{step},1\n" for step in restarted))
        assert spikeguard.read_curve(path).step.tolist() == restarted


def test_rows_are_numbered_when_nothing_numbers_them(tmp_path: pathlib.Path) -> None:
    curve = spikeguard.read_curve(_write(tmp_path / "log.csv", "loss\n4\n3\n"))
    assert curve.step.tolist() == [1, 2]
    assert curve.notes == ("There is no step or epoch column: the rows were numbered.",)
    curve = spikeguard.read_curve(_write(tmp_path / "log.csv", "epoch,loss\n0,4\n0,3\n0,3\n1,2\n1,1\n"))
    assert (curve.kind, curve.step.tolist(), curve.epoch.tolist()) == ("step", [1, 2, 3, 4, 5], [0, 0, 0, 1, 1])


def test_download_of_tensorboard_is_named_after_its_file(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "run-7.csv", "Wall time,Step,Value\n1700000000.5,10,0.5\n1700000001.5,20,0.25\n")
    assert {name: curve.loss.tolist() for name, curve in spikeguard.read_curves(path).items()} == {"run-7": [0.5, 0.25]}


def test_few_bad_cells_are_left_out_with_a_note(tmp_path: pathlib.Path) -> None:
    rows = "".join(f"{step},1.0\n" for step in range(1, 300))
    curve = spikeguard.read_curve(_write(tmp_path / "log.csv", f"step,loss\n{rows}300,oops\n301,0.5\n"))
    assert len(curve) == 300
    assert curve.notes == ("1 row(s) were left out: line 301 has 'oops' as loss, which is not a number.",)


def test_json_lines_are_read(tmp_path: pathlib.Path) -> None:
    lines = [{"step": 1, "train": {"loss": 2, "lr": "0.1"}}, {"step": 2, "eval": {"loss": 3}}, {"step": 2}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "train": {"loss": NaN}}\n{"step": 4, "tr'
    curve = spikeguard.read_curve(_write(tmp_path / "log.jsonl", text))
    np.testing.assert_array_equal(curve.loss, [2, np.nan])
    np.testing.assert_array_equal(curve.learning_rate, [0.1, np.nan])
    assert (curve.step.tolist(), curve.validation_loss.tolist()) == ([1, 3], [3.0])
    assert "line 5" in curve.notes[0]


def test_newest_state_of_hugging_face_is_read(tmp_path: pathlib.Path) -> None:
    history = [
        {"epoch": 0.53, "grad_norm": 2.5, "learning_rate": 5e-05, "loss": 0.9, "step": 500},
        {"epoch": 1.0, "eval_loss": 0.8, "eval_runtime": 3.1, "step": 940},
        {"epoch": 1.06, "grad_norm": None, "learning_rate": 4e-05, "loss": 0.7, "step": 1000},
        {"epoch": 2.0, "step": 1880, "total_flos": 1.0, "train_loss": 0.75, "train_runtime": 60.0},
    ]
    for step, entries in ((500, history[:1]), (1880, history)):
        state = {"global_step": step, "log_history": entries, "best_metric": None}
        _write(tmp_path / f"checkpoint-{step}" / "trainer_state.json", json.dumps(state))
    curve = spikeguard.read_curve(tmp_path)
    assert (curve.step.tolist(), curve.epoch.tolist(), curve.loss.tolist()) == ([500, 1000], [0, 1], [0.9, 0.7])
    np.testing.assert_array_equal(curve.gradient_norm, [2.5, np.nan])
    assert (curve.validation_step.tolist(), curve.validation_loss.tolist()) == ([940], [0.8])
    assert "Hugging Face logs the mean" in curve.notes[0]


def test_history_of_keras_is_read(tmp_path: pathlib.Path) -> None:
    history = {"loss": [0.9, 0.8], "val_loss": [1.0, 0.9]}
    curve = spikeguard.read_curve(_write(tmp_path / "history.json", json.dumps(history)))
    assert (curve.kind, curve.loss_is, curve.step.tolist()) == ("epoch", "epoch_mean", [0, 1])
    assert curve.validation_loss.tolist() == [1.0, 0.9]


def test_running_mean_in_csv_is_undone(tmp_path: pathlib.Path) -> None:
    losses = np.random.default_rng(0).normal(2, 0.3, (3, 100))
    losses[1, 70] = 30
    for name, values, loss_is in (
        ("batch", losses, "batch"),
        ("mean", losses.cumsum(1) / np.arange(1, 101), "running_mean"),
    ):
        rows = [f"{place},{place // 100},{value!r}" for place, value in enumerate(values.ravel().tolist())]
        curve = spikeguard.read_curve(_write(tmp_path / f"{name}.csv", "\n".join(["step,epoch,loss", *rows])))
        assert curve.loss_is == loss_is
        np.testing.assert_allclose(curve.loss, losses.ravel())


def test_tables_of_a_folder_are_runs(tmp_path: pathlib.Path) -> None:
    _write(tmp_path / "a.csv", "step,loss\n1,2\n")
    _write(tmp_path / "b.jsonl", '{"step": 1, "d_loss": 2, "g_loss": 3}\n')
    _write(tmp_path / "predictions.csv", "id,score\n1,2\n")
    assert set(spikeguard.read_curves(tmp_path)) == {"a", "b/d_loss", "b/g_loss"}
    with pytest.raises(InvalidDataError, match=r"holds 3 training curves: a, b/d_loss, b/g_loss. Name one"):
        spikeguard.read_curve(tmp_path)
    assert spikeguard.read_curve(tmp_path, run="b/g_loss").loss.tolist() == [3.0]
    with pytest.raises(InvalidDataError, match=r"holds no training curve 'c'. It holds: a, b/d_loss, b/g_loss"):
        spikeguard.read_curve(tmp_path, run="c")


def test_recorded_curve_wins_over_its_scalars(tmp_path: pathlib.Path) -> None:
    columns = {"step": np.arange(1, 4), "epoch": np.zeros(3), "loss": np.ones(3)}
    write_block(tmp_path / "run" / "curve", columns, STEP_SCHEMA)
    _write(tmp_path / "run" / "train" / "events.out.tfevents.1.host", "would be refused")
    for path, name in ((tmp_path, "run"), (tmp_path / "run", ""), (tmp_path / "run" / "curve", "")):
        assert {run: len(curve) for run, curve in spikeguard.read_curves(path).items()} == {name: 3}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "is empty"),
        ("log.csv", b"step,loss\n", "holds no training"),
        ("log.csv", b"step,accuracy\n1,2\n", r"has no loss column \(its header is: step, accuracy\)"),
        ("log.csv", b"1,0.5\n2,0.4\n", "has no loss column"),
        ("log.csv", b"step,loss\n1,a\n2,b\n3,1\n", r"line 2 has 'a' as loss, which is not a number"),
        ("log.csv", b"step,val_loss\n1,2\n", "holds no training loss"),
        ("log.jsonl", b"hello\nworld\n", r"line 1 has 'hello' as its content"),
        ("log.jsonl", b'{"step": 1}\n', "holds no training loss"),
        ("log.json", b'{"loss": [1', "is not readable as JSON"),
        ("log.json", b"3", "is not a log"),
        ("model.bin", b"\x00\x01\x02" * 50, "is a binary file"),
        ("events.out.tfevents.1.host", b"\x00\x01\x02" * 50, "is not a TensorBoard event file"),
        ("events.out.tfevents.1.host", b"", "is empty"),
    ],
)
def test_error_is_one_line_that_names_the_file(tmp_path: pathlib.Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidDataError, match=message) as raised:
        spikeguard.read_curves(tmp_path / name)
    assert raised.value.where == str(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_error_when_there_is_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidDataError, match="holds no training curve"):
        spikeguard.read_curves(tmp_path)
    with pytest.raises(InvalidDataError, match="does not exist"):
        spikeguard.read_curves(tmp_path / "nothing")


def test_largest_of_each_group_is_kept_when_a_series_is_long() -> None:
    values = np.arange(1000.0) % 7
    values[[101, 500]] = 99, np.nan
    builder = SeriesBuilder(max_points=100)
    for part in np.split(np.arange(1000), [3, 10, 500, 777]):
        builder.extend(part, values[part], part)
    series = builder.build()
    assert series.group == 16
    assert len(series.value) <= 101
    assert 101 in series.step
    assert np.isnan(series.value[series.step == 500]).all()
    np.testing.assert_array_equal(series.value, values[series.step])
    assert (np.diff(series.step) > 0).all()


def test_readers_need_no_platform(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "log.csv", "step,loss\n1,2\n")
    code = f"""
import sys, spikeguard, tensorboard.compat.proto.event_pb2
spikeguard.read_curve({str(path)!r})
print(*{{"tensorflow", "keras", "tfx", "pandas", "apache_beam"}} & set(sys.modules))"""
    assert not subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
