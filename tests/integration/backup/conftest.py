"""The product of one module: its own state folder, in the module's lab, which removes it at its end."""

import pytest

from lab import Lab
from tests.integration.backup.witness import Witness
from tests.integration.product import Product


@pytest.fixture(scope="module")
def product(module_lab: Lab) -> Product:
    """One installation for the tests of a module, which keeps every point: they look at old ones, too."""
    return Product(module_lab.folder / "product", "[retention]\nafter_backup = false\n")


@pytest.fixture(scope="module")
def witness(module_lab: Lab, product: Product) -> Witness:
    """Takes reference copies, and compares points with them."""
    return Witness(product, module_lab.folder)
