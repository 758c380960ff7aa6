"""`exai status`: what the daemon says of itself, for people, for programs and for scripts."""

from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.daemon_door import Door, NoDoor, find_http_door
from exai.cli.daemon_health import HealthAnswer, ask_health
from exai.cli.daemon_http import NoAnswer
from exai.cli.exit_codes import ExitCode
from exai.cli.health_picture import UnknownShape, picture, read_health
from exai.cli.no_answer import tell_silence, tell_unauthorized
from exai.cli.terminal import complain, write, write_json


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
        return tell_silence(silence, loaded, door)
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
    if not answer.is_whole:
        return tell_unauthorized(door, "the rest")
    return ExitCode.OK if answer.status == "ok" else ExitCode.NOT_READY
