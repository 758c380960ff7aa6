"""Both ends of an `exec`: becoming one's own successor, and being one.

Knows the variable between them and the command line; knows nothing of when it is time.
"""

from exai.cli.config_file import take_variables
from exai.cli.own_command import own_command
from exai.cli.terminal import complain
from exai.processes.succession import (
    INHERITANCE_VARIABLE,
    NOTHING,
    Inheritance,
    NotInherited,
    inheritance_in,
    replace_process,
)


def take_inheritance(heir: int) -> Inheritance:
    """Return what was left to the process `heir`; what is odd about it is warned of."""
    text = take_variables(INHERITANCE_VARIABLE).get(INHERITANCE_VARIABLE)
    try:
        return inheritance_in(text, heir)
    except NotInherited as oddity:
        complain(f"warning: {oddity}")
        return NOTHING


def become_successor(environment: dict[str, str], inheritance: Inheritance) -> str:
    """Run our own command line anew, in this process; return why that cannot be done."""
    command = own_command()
    try:
        replace_process(command, environment, inheritance)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
