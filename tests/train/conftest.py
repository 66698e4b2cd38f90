"""Images for the trainings of this folder; what Lightning warns of without reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_training import write_images

NEEDLESS = ("ignore:.*does not have many workers", "ignore:.*LeafSpec:FutureWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.filterwarnings(*NEEDLESS))


@pytest.fixture(scope="session")
def images_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))
