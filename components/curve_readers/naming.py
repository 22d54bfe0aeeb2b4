"""What a tag or column of a training log holds, told by its name. One table serves every format."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

# In canonical form, most telling first: where a log has several, the first one found is the curve.
STEP_LOSSES = (
    "batch loss",
    "train loss step",
    "training loss step",
    "loss step",
    "loss",
    "train loss",
    "training loss",
    "loss train",
    "loss training",
    "total loss",
    "train total loss",
    "lm loss",
    "train lm loss",
    "lm loss training",
)
EPOCH_LOSSES = (
    "epoch loss",
    "train loss epoch",
    "training loss epoch",
    "loss epoch",
    "train epoch loss",
    "loss train epoch",
)
VALIDATION_LOSSES = (
    "val loss",
    "validation loss",
    "valid loss",
    "eval loss",
    "dev loss",
    "test loss",
    "loss val",
    "loss validation",
    "loss valid",
    "loss eval",
    "loss test",
    "val loss epoch",
    "validation loss epoch",
)
_VALIDATION_WORDS = frozenset(["val", "valid", "validation", "eval", "evaluation", "test", "dev"])
_STEPS = ("step", "global step", "iteration", "iter", "iterations", "steps", "trainer global step", "batch")
_EPOCHS = ("epoch", "epochs")
# Fields of a curve besides its loss, and the names that they go by; a leading "train" is dropped before.
_COMPANIONS = {
    "learning_rate": ("lr", "learning rate", "epoch learning rate", "batch learning rate", "epoch lr"),
    "gradient_norm": (
        "grad norm",
        "gradient norm",
        "global norm",
        "global grad norm",
        "global gradient norm",
        "gradient global norm",
        "grad norm total",
        "gradients norm",
    ),
    "batch_size": ("batch size",),
    "total_loss": ("total loss",),
    "guard_factor": ("guard factor",),
    "guard_action": ("guard action",),
    "update_ratio": ("update ratio",),
    "epoch": _EPOCHS,
}


# A log asks for the same few names in each of its rows.
_cached = functools.lru_cache(maxsize=4096)


@_cached
def canonical(name: str) -> str:
    """The name in lower case, with one space for each run of `/ _ - .` and white space.

    >>> canonical("Loss/train"), canonical("train_loss")
    ('loss train', 'train loss')
    """
    return re.sub(r"[\s/_.\-]+", " ", name).strip().lower()


@_cached
def is_validation(name: str) -> bool:
    """Whether the name says that it is of data that are not trained on.

    >>> is_validation("val_loss"), is_validation("value_loss")
    (True, False)
    """
    return not _VALIDATION_WORDS.isdisjoint(canonical(name).split())


@_cached
def is_wanted(name: str) -> bool:
    """Whether a curve may need the tag or column."""
    return (
        is_step(name)
        or companion_of(name) is not None
        or canonical(name) in (*STEP_LOSSES, *EPOCH_LOSSES, *VALIDATION_LOSSES)
        or _says_loss(name)
    )


@_cached
def is_step(name: str) -> bool:
    """Whether the column numbers steps."""
    return _without_train(name) in _STEPS


def step_column(names: Iterable[str]) -> str | None:
    """The column that numbers the steps, the most telling one of several; None where there is none."""
    return _first(names, _STEPS)


def epoch_column(names: Iterable[str]) -> str | None:
    """The column that numbers the epochs; None where there is none."""
    return _first(names, _EPOCHS)


@_cached
def companion_of(name: str) -> str | None:
    """The field of a `TrainingCurve` that the column holds besides the loss; None for others.

    >>> companion_of("train/learning_rate"), companion_of("lr-Adam"), companion_of("accuracy")
    ('learning_rate', 'learning_rate', None)
    """
    text = _without_train(name)
    if text.startswith("lr "):
        return "learning_rate"
    return next((field for field, known in _COMPANIONS.items() if text in known), None)


def training_losses(names: Iterable[str]) -> dict[str, str]:
    """The columns that are training curves, by the name that each one's curve gets.

    Returns:
      `{"": column}` where a known name says which one it is, else each column that ends in "loss" and is not of
      validation, under its own name.

    >>> training_losses(["val_loss", "epoch_loss", "train/loss"])
    {'': 'train/loss'}
    >>> training_losses(["d_loss", "g_loss", "accuracy"])
    {'d_loss': 'd_loss', 'g_loss': 'g_loss'}
    """
    names = list(names)
    by_form = {canonical(name): name for name in reversed(names)}
    for form in (*STEP_LOSSES, *EPOCH_LOSSES):
        if form in by_form:
            return {"": by_form[form]}
    return {name: name for name in names if _says_loss(name) and not is_validation(name)}


def validation_loss(names: Iterable[str]) -> str | None:
    """The column of validation losses; None where there is none.

    >>> validation_loss(["loss", "val_loss"])
    'val_loss'
    """
    names = list(names)
    known = _first(names, VALIDATION_LOSSES)
    return known or next((name for name in names if _says_loss(name) and is_validation(name)), None)


def _first(names: Iterable[str], forms: tuple[str, ...]) -> str | None:
    by_form: dict[str, str] = {}
    for name in names:
        by_form.setdefault(canonical(name), name)
        by_form.setdefault(_without_train(name), name)
    return next((by_form[form] for form in forms if form in by_form), None)


def _without_train(name: str) -> str:
    return re.sub(r"^(train|training) ", "", canonical(name))


def _says_loss(name: str) -> bool:
    return canonical(name).split()[-1:] == ["loss"]
