"""Isolation forest (Liu, Ting and Zhou 2008): fitted by scikit-learn, kept as plain arrays, scored at scikit-learn's speed."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.errors import InvalidDataError
from spikeguard.components.outlier_detector.matrix import Matrix
from spikeguard.components.training_curve import Floats

# Rows that a tree is asked about at once; its table of rows stays in the processor's cache.
_ROWS = 8192
_LEAF = -1
_REMEDY = "Run OutlierDetector again."


@dataclasses.dataclass(frozen=True)
class Forest:
    """Trees as arrays over all their nodes, tree after tree.

    >>> forest = fit_forest(np.arange(64, dtype=np.float32).reshape(-1, 1), trees=10, max_samples=32, seed=0)
    >>> scores = forest.score(np.array([[31.0], [1000.0]], np.float32))
    >>> bool(scores[0] < scores[1])
    True
    """

    feature: npt.NDArray[np.int32]
    """Column that a node looks at; -1 for a leaf."""
    threshold: Floats
    """A value up to which goes to the left child."""
    left: npt.NDArray[np.int32]
    """Number of the left child within its tree; -1 for a leaf."""
    right: npt.NDArray[np.int32]
    path: Floats
    """Of a leaf: its depth, and the expected depth of a tree of the train rows that ended there."""
    starts: npt.NDArray[np.int64]
    """First node of each tree, and the number of all nodes. Shape (trees + 1,)."""
    columns: int
    """Width of the table that it takes."""
    normal_path: float
    """Expected path length in a tree of as many rows as each tree saw: c(n) of the paper."""

    def __post_init__(self) -> None:
        nodes = int(self.starts[-1])
        arrays = (self.feature, self.threshold, self.left, self.right, self.path)
        if any(len(array) != nodes for array in arrays) or np.any(np.diff(self.starts) < 1) or self.starts[0] != 0:
            raise InvalidDataError("isolation forest", "has arrays of different lengths", _REMEDY)
        sizes = np.repeat(np.diff(self.starts), np.diff(self.starts))
        place = np.arange(nodes) - np.repeat(self.starts[:-1], np.diff(self.starts))
        is_leaf = self.feature == _LEAF
        # A child after its parent: every walk ends, and within its tree.
        for child in (self.left, self.right):
            if np.any(np.where(is_leaf, False, (child <= place) | (child >= sizes))):
                raise InvalidDataError("isolation forest", "has a node whose child is none of its tree", _REMEDY)
        if np.any((self.feature >= self.columns) | (self.feature < _LEAF)):
            raise InvalidDataError("isolation forest", f"looks at more than its {self.columns} columns", _REMEDY)

    @property
    def trees(self) -> int:
        return len(self.starts) - 1

    def score(self, table: Matrix) -> Floats:
        """2^(-mean path length / c(n)) of each row: near 1 where it is isolated at once, 0.5 and below where it is ordinary.

        Args:
          table: shape (rows, columns), finite.

        Returns:
          Shape (rows,), in (0, 1].
        """
        scores = np.empty(len(table))
        for start in range(0, len(table), _ROWS):
            part = np.ascontiguousarray(table[start : start + _ROWS], np.float32)
            depth = np.zeros(len(part))
            for tree, first, last in zip(self._trees, self.starts[:-1], self.starts[1:], strict=True):
                depth += self.path[first:last][tree.apply(part)]
            scores[start : start + _ROWS] = 2.0 ** (-depth / (self.trees * self.normal_path))
        return scores

    @functools.cached_property
    def _trees(self) -> list[Any]:
        return [
            self._tree(int(first), int(last)) for first, last in zip(self.starts[:-1], self.starts[1:], strict=True)
        ]

    def _tree(self, first: int, last: int) -> Any:
        """scikit-learn's own tree, whose walk is compiled; NumPy's, a gather per level, takes several times as long."""
        from sklearn.tree import _tree

        nodes = np.zeros(last - first, _tree.NODE_DTYPE)
        nodes["left_child"], nodes["right_child"] = self.left[first:last], self.right[first:last]
        nodes["feature"] = np.where(self.feature[first:last] == _LEAF, _tree.TREE_UNDEFINED, self.feature[first:last])
        nodes["threshold"] = self.threshold[first:last]
        tree = _tree.Tree(self.columns, np.array([1], np.intp), 1)
        values = np.zeros((len(nodes), 1, 1))
        tree.__setstate__({"max_depth": 0, "node_count": len(nodes), "nodes": nodes, "values": values})
        return tree

    def __getstate__(self) -> dict[str, Any]:
        # Beam sends the forest to its workers; the trees are made again there.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes plain arrays, which run no code when they are read."""
        with open(path, "wb") as file:
            np.savez_compressed(file, **self.__getstate__())


def load_forest(path: str | os.PathLike[str]) -> Forest:
    """Reads what `Forest.save` wrote.

    Raises:
      InvalidDataError: the file is missing or damaged, or its trees are no trees.

    >>> load_forest("/nowhere/forest.npz")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidDataError: /nowhere/forest.npz: cannot be read (No such file or directory). Run OutlierDetector again.
    """
    try:
        with np.load(pathlib.Path(path), allow_pickle=False) as arrays:
            fields = {field.name: arrays[field.name] for field in dataclasses.fields(Forest)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidDataError(
            str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})", _REMEDY
        ) from error
    return Forest(**fields | {"columns": int(fields["columns"]), "normal_path": float(fields["normal_path"])})


def fit_forest(rows: Matrix, trees: int, max_samples: int, seed: int) -> Forest:
    """Fits scikit-learn's IsolationForest.

    Args:
      rows: shape (n, columns), finite; n >= 2.
      trees: >= 1.
      max_samples: rows that each tree sees, drawn without replacement; at most n are.
      seed: >= 0.
    """
    from sklearn.ensemble import IsolationForest

    fitted = IsolationForest(n_estimators=trees, max_samples=min(max_samples, len(rows)), random_state=seed).fit(rows)
    parts = [estimator.tree_ for estimator in fitted.estimators_]
    starts = np.cumsum([0, *(part.node_count for part in parts)])
    feature = np.concatenate([part.feature for part in parts])
    depths = [part.compute_node_depths() - 1.0 + average_path_length(part.n_node_samples) for part in parts]
    return Forest(
        feature=np.where(feature < 0, _LEAF, feature).astype(np.int32),
        threshold=np.concatenate([part.threshold for part in parts]),
        left=np.concatenate([part.children_left for part in parts]).astype(np.int32),
        right=np.concatenate([part.children_right for part in parts]).astype(np.int32),
        path=np.concatenate(depths),
        starts=starts.astype(np.int64),
        columns=rows.shape[1],
        normal_path=float(average_path_length(np.array([min(max_samples, len(rows))]))[0]),
    )


def average_path_length(rows: npt.NDArray[Any]) -> Floats:
    """c(n): mean depth of an unsuccessful search in a binary search tree of n rows; shape (k,) both.

    >>> average_path_length(np.array([1, 2, 256])).round(4).tolist()
    [0.0, 1.0, 10.2448]
    """
    n = np.maximum(rows, 3).astype(np.float64)
    result = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(rows <= 1, 0.0, np.where(rows == 2, 1.0, result))
