"""What people are told where a daemon does not answer, or not to them."""

from exai.cli.address_file import find_address
from exai.cli.config_file import LoadedConfig
from exai.cli.daemon_door import Door
from exai.cli.daemon_http import NoAnswer
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain, say
from exai.stores.instance_lock import find_holder


def tell_silence(silence: NoAnswer, loaded: LoadedConfig, door: Door) -> ExitCode:
    """Say that nobody answers, and what helps; return the status to end with."""
    complain(str(silence))
    say(f"  {_what_to_do(loaded, door)}")
    return ExitCode.CANNOT_CONNECT


def tell_unauthorized(door: Door, what: str) -> ExitCode:
    """Say that the daemon tells `what` to others alone; return the status to end with."""
    if door.token is None:
        complain(f"the daemon tells {what} to those with a token ({door.token_place})")
    else:
        complain(f"the daemon at {door.url} refused the token ({door.token_place})")
    return ExitCode.UNAUTHORIZED


def _what_to_do(loaded: LoadedConfig, door: Door) -> str:
    """Say what helps where nobody answers, and whose address it was that was asked."""
    state_dir = loaded.config.state_dir
    address = find_address(state_dir)
    try:
        is_stale = address and address.http_url == door.url and find_holder(state_dir) is None
    except OSError:
        is_stale = False
    if address and is_stale:
        return f"the daemon there (pid {address.pid}) was killed; start one with: exai serve"
    return "start the daemon with: exai serve; or see what is wrong with: exai doctor"
