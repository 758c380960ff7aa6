"""The shape report, as `make check` runs it."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "shape_report.py"


def report_on(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "src").mkdir()
    (folder / "src" / "room.py").write_text(source, "utf-8")
    return subprocess.run(
        [sys.executable, SCRIPT],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )


def test_a_file_of_600_lines_is_questioned(tmp_path: Path) -> None:
    report = report_on("x = 1\n" * 600, tmp_path)

    assert "src/room.py: 600 lines: could it be two files?" in report.stdout
    assert report.returncode == 0


def test_a_longer_file_is_refused(tmp_path: Path) -> None:
    report = report_on("x = 1\n" * 601, tmp_path)

    assert "src/room.py: 601 lines: too long" in report.stdout
    assert report.returncode == 1


def test_the_longest_functions_are_named_by_their_place(tmp_path: Path) -> None:
    report = report_on("\n\nasync def wait():\n    a = 1\n    return a\n", tmp_path)

    assert "    3  src/room.py:3 wait" in report.stdout


def test_silenced_checks_are_counted_and_placed(tmp_path: Path) -> None:
    report = report_on(
        "try:\n    x = 1  # type: ignore[assignment]\nexcept (OSError, Exception):\n    raise\n",
        tmp_path,
    )

    assert "except Exception: 1\n  src/room.py:3\n" in report.stdout
    assert "# type: ignore: 1\n  src/room.py:2\n" in report.stdout
    assert "# noqa: 0\n" in report.stdout


def test_handlers_that_look_and_phrases_in_strings_count_for_nothing(tmp_path: Path) -> None:
    report = report_on(
        'try:\n    x = "# noqa"\nexcept OSError:\n    pass\nexcept BaseException:\n    raise\n',
        tmp_path,
    )

    assert "except Exception: 0\n" in report.stdout
    assert "# noqa: 0\n" in report.stdout
