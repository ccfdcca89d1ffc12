"""The product of one module: its own state folder, in the module's lab, which removes it at its end."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Lab
from tests.integration.product import Product


@pytest.fixture(scope="module")
def product(module_lab: Lab) -> Product:
    """One installation for the tests of a module."""
    return Product(module_lab.folder / "product")


@pytest.fixture
def new_folder(module_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Path]]:
    """Names for folders that are not there yet, and that QEMU may enter; no two tests share one."""
    made: list[Path] = []

    def path(name: str) -> Path:
        made.append(module_lab.folder / f"{len(list(module_lab.folder.iterdir()))}-{len(made)}-{name}")
        return made[-1]

    return path
