"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import spikeguard

MODULES = [module.name for module in pkgutil.walk_packages(spikeguard.__path__, "spikeguard.")]


@pytest.mark.parametrize("name", ["spikeguard", *MODULES])
def test_docstring_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
