from __future__ import annotations

import pytest

from tests.export.bundles import Exported, exported_imagenet


@pytest.fixture(scope="session")
def exported() -> Exported:
    """imagenet version 1 in a bundle of its own."""
    return exported_imagenet()
