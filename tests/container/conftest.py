"""The image that tests run, built once."""

import faulthandler

import pytest

from tests.container.engine import build_image


@pytest.fixture(scope="session")
def image() -> None:
    """Build the image. How long that may take is bounded there; a test that hangs has less."""
    faulthandler.cancel_dump_traceback_later()
    build_image()
