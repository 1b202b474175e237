from __future__ import annotations

import pytest

from tests.export.bundles import Exported, exported_imagenet


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """imagenet version 1 in a bundle of its own."""
    return exported_imagenet(tmp_path_factory)
