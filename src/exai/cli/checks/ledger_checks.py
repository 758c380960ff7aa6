"""Checks of where accepted calls rest, and of the room that there is for more."""

import shutil
from collections.abc import Iterator

from exai.cli.checks.evidence import Evidence
from exai.cli.checks.finding import Finding, ok, problem, warning
from exai.cli.checks.state_checks import nearest
from exai.cli.words import size_in_words
from exai.stores.sqlite_file import DatabaseUnusable, reading_database
from exai.stores.sqlite_inventory import file_bytes

_ENOUGH_BYTES = 256 * 1024 * 1024
"""Below it a few results of the largest size, and the log that they go through, fill a disk."""


def ledger(evidence: Evidence) -> Iterator[Finding]:
    """Is it ours, of a version that can be read, and sound?"""
    name, config = "ledger", evidence.loaded.config
    if config.store.kind == "memory":
        yield ok(name, "in memory (store.kind): what was accepted ends with the daemon")
        return
    try:
        with reading_database(config.state_dir, is_thorough=True) as database:
            if database is None:
                yield ok(name, "none yet; the first start makes it")
            else:
                (version,) = database.execute("PRAGMA user_version").fetchone()
                size = size_in_words(sum(file_bytes(config.state_dir)))
                yield ok(name, f"sound, version {version} of its tables, {size}")
    except DatabaseUnusable as fault:
        yield problem(name, str(fault))


def disk_space(evidence: Evidence) -> Iterator[Finding]:
    """Is there room for more? Without any, a daemon refuses new calls."""
    name, path = "disk space", nearest(evidence.loaded.config.state_dir)
    free_bytes = shutil.disk_usage(path).free
    if free_bytes < _ENOUGH_BYTES:
        yield warning(
            name,
            f"only {size_in_words(free_bytes)} are free on the disk of {path}",
            "make room: a daemon whose disk is full refuses new calls",
        )
    else:
        yield ok(name, f"{size_in_words(free_bytes)} are free")
