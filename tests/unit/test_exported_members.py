"""What the packages promise to export is there, and importing one of their modules works alone."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import self_healing_fabric
import shf_queries


def modules_of(package: ModuleType) -> list[str]:
    """The names of all modules of a package."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    return [package.__name__, *(module.name for module in found)]


# A script that Alembic runs in the middle of a migration; importing it anywhere else cannot work.
SCRIPTS = {"self_healing_fabric.store.migrations.env"}
MODULES = sorted({*modules_of(self_healing_fabric), *modules_of(shf_queries)} - SCRIPTS)


@pytest.mark.parametrize("name", MODULES)
def test_exported_names_exist(name: str) -> None:
    """Every name in `__all__` can be imported, and none is listed twice."""
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", []))
    assert [member for member in exported if not hasattr(module, member)] == []
    assert len(set(exported)) == len(exported)


def test_queries_export_what_callers_need() -> None:
    """The client, its results and all of its errors are imported from the package itself."""
    assert set(shf_queries.__all__) == {
        "PartialResult",
        "PrometheusClient",
        "PrometheusUnavailable",
        "QueryError",
        "QueryRejected",
        "Sample",
        "Series",
    }


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_why_it_exists(name: str) -> None:
    """A module opens with a docstring."""
    assert (importlib.import_module(name).__doc__ or "").strip()


def test_the_command_line_imports_nothing_heavy_before_it_is_needed() -> None:
    """`shf --help` answers without loading the store, Flask or NumPy."""
    code = "import sys, self_healing_fabric.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"flask", "sqlalchemy", "numpy", "pydantic", "docker"} & set(done.stdout.split())
