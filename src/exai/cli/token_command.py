"""`exai token`: new tokens, and the replacement of old ones."""

import asyncio

from exai.cli.config_file import CommandLine
from exai.cli.daemon_door import Door
from exai.cli.daemon_session import run_at_door
from exai.cli.exit_codes import ExitCode
from exai.cli.state_token import new_token, replace_state_token, token_path
from exai.cli.terminal import complain, write
from exai.client.daemon_client import DaemonClient
from exai.client.errors import ClientError, RequestRefused

_REASONS = {
    "unauthorized": "this identity may not replace its token (principals.NAME.may_rotate)",
    "weak_token": "the daemon does not take this token",
}


def run_token_new() -> ExitCode:
    """Print a new token."""
    write(f"{new_token()}\n")
    return ExitCode.OK


def run_token_rotate(
    command_line: CommandLine,
    url: str | None,
    principal: str | None,
    *,
    grace_s: float,
    revoke_sessions: bool,
) -> ExitCode:
    """Replace the token that this session was opened with."""
    if not grace_s >= 0:
        complain("--grace: expected a number of seconds, at least 0")
        return ExitCode.USAGE

    async def work(client: DaemonClient, door: Door) -> ExitCode:
        if door.token is None:
            complain(f"there is no token to replace ({door.token_place})")
            return ExitCode.USAGE
        token = new_token()
        try:
            await client.rotate_token(token, grace_s=grace_s, revoke_sessions=revoke_sessions)
        except RequestRefused as refused:
            complain(_REASONS.get(refused.code, str(refused)))
            return ExitCode.REFUSED
        except (ClientError, asyncio.CancelledError):
            complain("if the daemon refuses the old token from now on, it has taken this one:")
            write(f"{token}\n")
            raise
        return _keep(token, door)

    return run_at_door(command_line, url, principal, work)


def _keep(token: str, door: Door) -> ExitCode:
    """Put a token where the old one stood; or give it to whoever has to."""
    if door.state_dir is not None:
        try:
            replace_state_token(door.state_dir, token)
        except OSError as error:
            complain(f"the daemon has the new token, but {token_path(door.state_dir)}: {error}")
        else:
            complain(f"the new token is in {token_path(door.state_dir)}")
            return ExitCode.OK
    complain(f"put the new token where the old one is configured ({door.token_place}):")
    write(f"{token}\n")
    return ExitCode.OK
