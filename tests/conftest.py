"""Shared fixtures: where the real data sets are."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # tests run on all cores already: threads of each would fight for them

import pytest
from hypothesis import settings

settings.register_profile("stgraph", max_examples=25, deadline=None)
settings.load_profile("stgraph")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: ``$STGRAPH_DATA``, or ``../shared/data`` beside the checkout."""
    folder = Path(os.environ.get("STGRAPH_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set STGRAPH_DATA to a folder that holds los_loop, pems_bay_16, ...")
    return folder
