"""The image that tests run, built once."""

import faulthandler

import pytest

from tests.container.engine import build_image


@pytest.fixture
def image() -> None:
    """Build the image, once; a test with it is bounded by its own timeout, and by no other."""
    faulthandler.cancel_dump_traceback_later()
    build_image()
