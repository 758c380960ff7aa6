"""Files that are there as a whole or not at all, closed to others."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Let a file hold this; a crash leaves the one before. Raises `OSError`.

    What is not `durable` may be gone after a power failure.
    """
    with draft(path, content, durable=durable) as written:
        os.replace(written, path)


@contextmanager
def draft(path: Path, content: bytes, *, durable: bool = True) -> Iterator[Path]:
    """Write a file beside `path`, that is gone afterwards unless it was moved.

    Raises `OSError`.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    written = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield written
    finally:
        written.unlink(missing_ok=True)
