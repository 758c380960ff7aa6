"""`exai status`: what the daemon says of itself, for people, for programs and for scripts."""

from exai.cli.address_file import find_address
from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, LoadedConfig, load_config
from exai.cli.daemon_door import Door, NoDoor, find_http_door
from exai.cli.daemon_health import HealthAnswer, NoAnswer, ask_health
from exai.cli.exit_codes import ExitCode
from exai.cli.health_picture import UnknownShape, picture, read_health
from exai.cli.terminal import complain, say, write, write_json
from exai.stores.instance_lock import find_holder


def run_status(
    command_line: CommandLine, url: str | None, principal: str | None, *, as_json: bool
) -> ExitCode:
    """Print how the daemon fares; the exit status says it, too."""
    try:
        loaded = load_config(command_line, for_client=True)
        door = find_http_door(loaded, url, principal)
        answer = ask_health(door)
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except NoDoor as wrong:
        complain(str(wrong))
        return ExitCode.USAGE
    except NoAnswer as silence:
        complain(str(silence))
        say(f"  {_what_to_do(loaded, door)}")
        return ExitCode.CANNOT_CONNECT
    _show(answer, door, as_json=as_json)
    return _judge(answer, door)


def _show(answer: HealthAnswer, door: Door, *, as_json: bool) -> None:
    if as_json:
        write_json(answer.report)
    elif not answer.is_whole:
        write(f"EXAI at {door.url} is {answer.status}\n")
    else:
        try:
            write("".join(picture(read_health(answer.report), door.url)))
        except UnknownShape as misfit:
            write(f"EXAI at {door.url} is {answer.status}\n")
            complain(f"cannot read the rest, which -o json shows; it has another version? {misfit}")


def _judge(answer: HealthAnswer, door: Door) -> ExitCode:
    if not answer.is_whole and door.token is None:
        complain(f"the daemon tells the rest to those with a token ({door.token_place})")
        return ExitCode.UNAUTHORIZED
    if not answer.is_whole:
        complain(f"the daemon at {door.url} refused the token ({door.token_place})")
        return ExitCode.UNAUTHORIZED
    return ExitCode.OK if answer.status == "ok" else ExitCode.NOT_READY


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
