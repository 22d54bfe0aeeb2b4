"""Errors that a person can act on: one line that names the thing, shows the value and says what to do."""

from __future__ import annotations

import re


class SpikeguardError(Exception):
    """Base of every error that spikeguard raises on purpose; its text is one line, meant for the user."""


class InvalidArgumentError(SpikeguardError, ValueError):
    """A parameter, flag or setting is outside its rule.

    Attributes:
      parameter: name of the parameter.
      value: the value that was given.

    >>> raise InvalidArgumentError("steps", -5, "be at least 1", "Give --steps 1000.")
    Traceback (most recent call last):
        ...
    spikeguard.components.errors.InvalidArgumentError: steps must be at least 1; got -5. Give --steps 1000.
    """

    def __init__(self, parameter: str, value: object, rule: str, remedy: str = "") -> None:
        # All arguments go to Exception so that the error survives pickling between Beam workers.
        super().__init__(parameter, value, rule, remedy)
        self.parameter = parameter
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.parameter} must {self.rule}; got {self.value!r}. {self.remedy}".rstrip()


class InvalidDataError(SpikeguardError, ValueError):
    """Data that were read cannot be used.

    Attributes:
      where: the file, split, feature or label at fault.
    """

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        super().__init__(where, problem, remedy)
        self.where = where
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}. {self.remedy}".rstrip()


def unwrapped(error: Exception) -> Exception:
    """What a Beam worker raised about the data, without what runners add to it in words or by another type.

    >>> unwrapped(RuntimeError("InvalidDataError: split 'train': has no rows. [while running 'Read-ptransform-3']"))
    InvalidDataError("split 'train'", 'has no rows', '')
    """
    if isinstance(error, InvalidDataError):
        return InvalidDataError(re.sub(r" \[while running [^]]*\]", "", error.where), error.problem, error.remedy)
    match = re.search(r"InvalidDataError: (.+?): (.+?)(?: \[while running [^]]*\])?$", str(error), re.MULTILINE)
    return InvalidDataError(match[1], match[2].rstrip(".")) if match else error


class PipelineFailedError(SpikeguardError):
    """A node of the pipeline failed with an error that is not the user's.

    Attributes:
      node: name of the node; "the pipeline" where none was running.
      log_path: file with all that the platform printed.
    """

    def __init__(self, node: str, cause: str, log_path: str) -> None:
        super().__init__(node, cause, log_path)
        self.node = node
        self.cause = cause
        self.log_path = log_path

    def __str__(self) -> str:
        return f"{self.node} failed: {self.cause}. The whole log is in {self.log_path}."
