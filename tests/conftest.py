"""What all tests share: hypothesis' profile, a checkpoint file."""

from __future__ import annotations

import pytest
from fakes import small_model
from hypothesis import settings

from osoa_pl.models.zoo import pack

settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint file of small untrained models, grey and RGB."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    path.write_bytes(pack({"grey": small_model(1), "rgb": small_model(3)}))
    return str(path)
