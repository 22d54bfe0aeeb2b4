"""Rows that are labelled as anomalies or not: two of scikit-learn's sets, and likenesses of the public sets that forests are
compared on.

A likeness has the traits that such a set is hard for: few features, values that repeat, whole rows that repeat, heavy tails,
categories of which some are rare, missing values. It holds none of its rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

Labelled = tuple[pd.DataFrame, np.ndarray]
"""Columns of numbers or texts, and whether each row is an anomaly, shape (rows,)."""


def labelled_sets(size: int) -> dict[str, Labelled]:
    """All sets by name; synthetic ones have `size` rows, shuffled."""
    from sklearn.datasets import load_breast_cancer, load_digits

    cancer, digits = load_breast_cancer(), load_digits()
    found = {
        "breast_cancer": _with_few(cancer.data, cancer.target == 0),
        "digits, 0 rare": _with_few(digits.data, digits.target == 0),
    }
    for number, (name, make) in enumerate(_LIKENESSES.items()):
        random = np.random.default_rng(number)
        table, is_anomaly = make(size, random)
        order = random.permutation(size)
        found[name] = (table.iloc[order].reset_index(drop=True), is_anomaly[order])
    return found


def _with_few(values: np.ndarray, is_anomaly: np.ndarray, most: int = 20) -> Labelled:
    kept = ~is_anomaly | (np.cumsum(is_anomaly) <= most)
    return _table(values[kept]), is_anomaly[kept]


def _table(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"x{place:02d}" for place in range(values.shape[1])])


def _clusters(size: int, random: np.random.Generator) -> Labelled:
    """Three clouds in ten dimensions, and 2 % of rows between and beside them."""
    is_anomaly = np.arange(size) < size // 50
    values = random.normal(size=(size, 10)) + random.choice([-4.0, 0.0, 4.0], size=(size, 1))
    values[is_anomaly] = random.uniform(-9, 9, size=(is_anomaly.sum(), 10))
    return _table(values), is_anomaly


def _skewed(size: int, random: np.random.Generator) -> Labelled:
    """Five log-normal features; in 2 % of rows each is far too small or too large."""
    is_anomaly = np.arange(size) < size // 50
    values = random.lognormal(size=(size, 5))
    values[is_anomaly] *= random.choice([0.05, 6.0], size=(is_anomaly.sum(), 5))
    return _table(values), is_anomaly


def _like_http(size: int, random: np.random.Generator) -> Labelled:
    """Logarithms of three counts of a connection, whole rows repeated; the 0.4 % of anomalies are nearly all one row."""
    is_anomaly = np.arange(size) < size // 250
    pages = np.round(random.lognormal(7.0, 1.5, size=2000))
    values = np.stack(
        [
            np.where(random.random(size) < 0.9, 0.0, np.round(random.exponential(20.0, size))),
            np.round(random.normal(240.0, 45.0, size)),
            random.choice(pages, p=_zipf(len(pages)), size=size),
        ],
        axis=1,
    )
    # A busy client asks for the same over and over.
    repeated = random.random(size) < 0.3
    values[repeated] = values[random.choice(size, 300)][random.choice(300, p=_zipf(300), size=repeated.sum())]
    values[is_anomaly] = (1.0, 54540.0, 8314.0)
    odd = is_anomaly & (random.random(size) < 0.15)
    values[odd, 2] = random.choice([0.0, 7300.0, 8315.0], size=odd.sum())
    return _table(np.log(values.clip(0.0) + 0.1)), is_anomaly


def _like_shuttle(size: int, random: np.random.Generator) -> Labelled:
    """Nine integers of sensors, half of them 0 nearly always and then far off; 7 % of rows are another flight regime."""
    is_anomaly = np.arange(size) < size * 7 // 100
    spikes = np.where(
        random.random((size, 4)) < 0.03,
        np.round(random.standard_t(1.2, size=(size, 4)) * 40),
        random.choice([0, 0, 0, 1, -1, 2], size=(size, 4)),
    )
    base = np.round(random.normal(45.0, 7.0, size))
    drift = np.where(is_anomaly, random.choice([-12.0, 18.0, 30.0], size=size), 0.0)
    values = np.stack(
        [
            base + drift,
            np.round(random.normal(81.0, 4.0, size)) + np.where(is_anomaly, 6, 0),
            np.round(random.normal(40.0, 12.0, size)) - drift,
            81 - base + np.round(random.normal(0.0, 2.0, size)),
            2 * np.round(random.normal(1.0, 3.0, size)) + np.where(is_anomaly, 20, 0),
        ],
        axis=1,
    )
    return _table(np.concatenate([values, spikes.clip(-5000, 5000)], axis=1)), is_anomaly


def _like_thyroid(size: int, random: np.random.Generator) -> Labelled:
    """Six measured values with two decimals, some of them missing, and nine yes or no; 2.5 % of rows are ill."""
    is_anomaly = np.arange(size) < size // 40
    measured = np.stack(
        [
            random.integers(1, 95, size) / 100,
            random.lognormal(-5.5, 0.9, size) * np.where(is_anomaly, 12, 1),
            random.normal(0.020, 0.006, size) - np.where(is_anomaly, 0.010, 0),
            random.normal(0.109, 0.030, size) - np.where(is_anomaly, 0.060, 0),
            random.normal(0.098, 0.016, size),
            random.normal(0.112, 0.033, size) - np.where(is_anomaly, 0.070, 0),
        ],
        axis=1,
    )
    measured = np.round(measured.clip(0.0), 4)
    measured[random.random(measured.shape) < 0.1] = np.nan
    flags = random.random((size, 9)) < [0.3, 0.12, 0.06, 0.05, 0.04, 0.02, 0.015, 0.01, 0.003]
    return _table(np.concatenate([measured, flags], axis=1)), is_anomaly


def _like_mammography(size: int, random: np.random.Generator) -> Labelled:
    """Six heavy-tailed, scaled features with many equal values at the lower end; 2.3 % of rows are calcifications."""
    is_anomaly = np.arange(size) < size * 23 // 1000
    values = random.standard_gamma([0.4, 1.5, 0.6, 0.8, 2.0, 0.5], size=(size, 6)) * np.where(
        is_anomaly[:, None], random.choice([1.0, 2.5, 5.0], size=(size, 6)), 1.0
    )
    values[:, [0, 2, 5]] = np.where(
        random.random((size, 3)) < np.where(is_anomaly, 0.2, 0.7)[:, None], 0.0, values[:, [0, 2, 5]]
    )
    return _table(np.round((values - values.mean(0)) / values.std(0), 3)), is_anomaly


def _like_intrusions(size: int, random: np.random.Generator) -> Labelled:
    """Counts and rates beside three texts; 1 % of rows are intrusions, most of them by a rare service or flag."""
    is_anomaly = np.arange(size) < size // 100
    services = np.array([f"service_{place:02d}" for place in range(60)])
    usual, any_service = random.choice(services, p=_zipf(60, 1.6), size=size), random.choice(services, size=size)
    is_odd = is_anomaly & (random.random(size) < 0.7)
    rates = random.choice([0.0, 1.0, 0.5, 0.03], p=[0.8, 0.1, 0.05, 0.05], size=(size, 3))
    table = _table(
        np.concatenate(
            [
                np.round(random.lognormal(5.0, 1.4, size=(size, 2)) * np.where(is_anomaly, 4, 1)[:, None]),
                np.round(random.exponential(8.0, size=(size, 2))),
                np.where(is_anomaly[:, None], random.choice([0.0, 1.0], size=(size, 3)), rates),
            ],
            axis=1,
        )
    )
    table["protocol"] = random.choice(["tcp", "udp", "icmp"], p=[0.8, 0.17, 0.03], size=size)
    table["service"] = np.where(is_odd, any_service, usual)
    flags = random.choice(["SF", "S0", "REJ", "RSTR", "SH"], p=[0.85, 0.08, 0.06, 0.008, 0.002], size=size)
    table["flag"] = np.where(is_odd, random.choice(["SF", "RSTR", "SH", "OTH"], size=size), flags)
    return table, is_anomaly


def _zipf(count: int, power: float = 1.1) -> np.ndarray:
    weights = np.arange(1, count + 1) ** -power
    return np.asarray(weights / weights.sum())


_LIKENESSES: dict[str, Callable[[int, np.random.Generator], Labelled]] = {
    "clusters": _clusters,
    "skewed": _skewed,
    "like http": _like_http,
    "like shuttle": _like_shuttle,
    "like thyroid": _like_thyroid,
    "like mammography": _like_mammography,
    "like intrusions": _like_intrusions,
}
