"""What every test may ask for."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real radiographs and annotation files (`CXR_TEST_DATA`, default `../shared/data`)."""
    folder = Path(os.environ.get("CXR_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is absent (set CXR_TEST_DATA)")
    return folder
