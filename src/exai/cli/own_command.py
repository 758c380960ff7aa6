"""The command line that started this process, to run it once more with the code of today."""

import os
import sys


def own_command(*further: str) -> list[str]:
    """Return the command, whose first part is a path, with further arguments behind it.

    A script is run by itself, not by the interpreter that read it: where a link leads to the
    version of today, the script's first line names that version's own interpreter.
    """
    interpreter, *arguments = sys.orig_argv
    script = sys.argv[0]
    if arguments[:1] == [script] and os.path.isfile(script) and os.access(script, os.X_OK):
        return [os.path.abspath(script), *arguments[1:], *further]
    return [sys.executable or interpreter, *arguments, *further]
