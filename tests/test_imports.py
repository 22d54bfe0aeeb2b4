"""The public surface, what importing costs, and which way imports run."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

import spikeguard

ROOT = pathlib.Path(__file__).parent.parent


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    "statement", ["import spikeguard", "import spikeguard.pipelines.flights", "import local_runner"]
)
def test_no_platform_is_imported_when_nothing_is_used_of_it(statement: str) -> None:
    code = f"sys.path.insert(0, {str(ROOT)!r}); {statement}"
    assert not _modules_after(code) & {"tensorflow", "apache_beam", "tfx", "keras", "pandas"}


def test_detector_and_curve_need_no_platform() -> None:
    loaded = _modules_after(
        "import spikeguard; spikeguard.detect_spikes, spikeguard.read_curve, spikeguard.SpikePolicy"
    )
    assert not loaded & {"tensorflow", "apache_beam", "tfx", "keras"}


@pytest.mark.parametrize("name", spikeguard.__all__)
def test_public_name_loads(name: str) -> None:
    assert getattr(spikeguard, name).__doc__
    assert name in dir(spikeguard)


def test_error_names_the_attribute_when_it_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = spikeguard.Nothing


def _imports(path: pathlib.Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


SOURCES = [*ROOT.glob("components/**/*.py"), *ROOT.glob("pipelines/**/*.py"), *ROOT.glob("schemas/**/*.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: pathlib.Path) -> None:
    imports = _imports(path)
    is_component = path.parts[len(ROOT.parts)] == "components"
    is_tfx_code = path.name in ("component.py", "executor.py", "artifacts.py", "example_artifacts.py")
    assert not any(name.startswith("tfx.v1") or name == "tfx" for name in imports), "import TFX by its modules"
    if is_component:
        assert not any(name.startswith("spikeguard.pipelines") for name in imports)
        if not is_tfx_code:
            assert not any(name.split(".")[0] == "tfx" for name in imports)
            assert not any(name.endswith((".component", ".executor")) for name in imports)
