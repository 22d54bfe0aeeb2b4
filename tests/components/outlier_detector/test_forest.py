"""The forest against scikit-learn's and against a plain walk, and what its file refuses."""

from __future__ import annotations

import pathlib
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.outlier_detector.forest import Forest, fit_forest, load_forest


def _rows(n: int = 700, columns: int = 6) -> np.ndarray:
    random = np.random.default_rng(0)
    rows = random.normal(size=(n, columns)) * 10.0 ** np.arange(columns)
    rows[:5] *= 30
    rows[:, 2] = np.round(rows[:, 2] / 100)
    return rows.astype(np.float32)


def _plain_score(forest: Forest, row: np.ndarray) -> float:
    """A walk in Python, node by node."""
    paths = []
    for first in forest.starts[:-1]:
        node = int(first)
        while forest.feature[node] >= 0:
            goes_left = row[forest.feature[node]] <= forest.threshold[node]
            node = int(first) + int(forest.left[node] if goes_left else forest.right[node])
        paths.append(forest.path[node])
    return float(2.0 ** (-np.mean(paths) / forest.normal_path))


@pytest.mark.parametrize("max_samples", [16, 256, 5000])
def test_scores_are_those_of_scikit_learn(max_samples: int) -> None:
    rows = _rows()
    theirs = IsolationForest(n_estimators=40, max_samples=min(max_samples, len(rows)), random_state=3).fit(rows)
    ours = fit_forest(rows, trees=40, max_samples=max_samples, seed=3)
    others = _rows(9000)[:, ::-1].copy()
    np.testing.assert_allclose(ours.score(others), -theirs.score_samples(others), rtol=1e-12)


def test_scores_are_those_of_a_plain_walk() -> None:
    rows = _rows()
    forest = fit_forest(rows, trees=20, max_samples=64, seed=1)
    np.testing.assert_allclose(forest.score(rows[:50]), [_plain_score(forest, row) for row in rows[:50]], rtol=1e-12)


def test_real_anomalies_rank_as_by_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    data = load_breast_cancer()
    rows, is_malignant = data.data.astype(np.float32), data.target == 0
    kept = ~is_malignant | (np.cumsum(is_malignant) <= 20)
    ours = fit_forest(rows[kept], trees=100, max_samples=256, seed=0).score(rows[kept])
    assert roc_auc_score(is_malignant[kept], ours) > 0.9


def test_a_saved_forest_scores_the_same(tmp_path: pathlib.Path) -> None:
    rows = _rows()
    forest = fit_forest(rows, trees=10, max_samples=64, seed=1)
    forest.save(tmp_path / "forest.npz")
    np.testing.assert_array_equal(load_forest(tmp_path / "forest.npz").score(rows), forest.score(rows))
    # Beam sends it so.
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(forest)).score(rows), forest.score(rows))


def test_file_holds_no_object_that_could_run(tmp_path: pathlib.Path) -> None:
    fit_forest(_rows(), trees=2, max_samples=16, seed=1).save(tmp_path / "forest.npz")
    with np.load(tmp_path / "forest.npz", allow_pickle=False) as arrays:
        assert {array.dtype.kind for array in arrays.values()} <= {"i", "f"}


class _Evil:
    ran = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (_Evil, "ran", True)


def test_an_object_in_the_file_is_refused_and_does_not_run(tmp_path: pathlib.Path) -> None:
    forest = fit_forest(_rows(), trees=2, max_samples=16, seed=1)
    arrays = forest.__getstate__() | {"path": np.array([_Evil()], dtype=object)}
    np.savez(tmp_path / "forest.npz", **arrays)
    with pytest.raises(InvalidDataError, match=r"forest.npz: cannot be read .*allow_pickle"):
        load_forest(tmp_path / "forest.npz")
    assert not _Evil.ran


def _damaged(forest: Forest, **changes: object) -> dict[str, object]:
    return {**forest.__getstate__(), **changes}


def test_trees_that_would_not_end_are_refused() -> None:
    forest = fit_forest(_rows(), trees=3, max_samples=16, seed=1)
    for changes, words in (
        ({"left": np.zeros_like(forest.left)}, "child is none of its tree"),
        ({"right": forest.right + 10_000}, "child is none of its tree"),
        ({"columns": 2}, "more than its 2 columns"),
        ({"path": forest.path[:-1]}, "arrays of different lengths"),
    ):
        with pytest.raises(InvalidDataError, match=words):
            Forest(**_damaged(forest, **changes))  # type: ignore[arg-type]


def test_a_cut_file_is_named(tmp_path: pathlib.Path) -> None:
    fit_forest(_rows(), trees=2, max_samples=16, seed=1).save(tmp_path / "forest.npz")
    content = (tmp_path / "forest.npz").read_bytes()
    (tmp_path / "forest.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidDataError, match=r"forest.npz: cannot be read"):
        load_forest(tmp_path / "forest.npz")
