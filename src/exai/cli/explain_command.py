"""`exai explain`: what became of a call, for people and for programs."""

from urllib.parse import urlencode

import msgspec

from exai.cli.call_story import story
from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.daemon_door import Door, NoDoor, find_http_door
from exai.cli.daemon_http import Answer, NoAnswer, ask
from exai.cli.exit_codes import ExitCode
from exai.cli.no_answer import tell_silence, tell_unauthorized
from exai.cli.terminal import complain, write, write_json
from exai.core.explanation import Explanation
from exai.core.requests import RequestId


def run_explain(
    command_line: CommandLine, name: str, url: str | None, principal: str | None, *, as_json: bool
) -> ExitCode:
    """Print what became of the calls of this request id or call id."""
    try:
        msgspec.convert(name, RequestId)
    except msgspec.ValidationError:
        complain("an id has 1 to 128 printable ASCII characters, without space")
        return ExitCode.USAGE
    try:
        loaded = load_config(command_line, for_client=True)
        door = find_http_door(loaded, url, principal)
        answer = ask(door, f"/explain?{urlencode({'id': name})}")
        if answer.status == 401:
            return tell_unauthorized(door, "what became of calls")
        explanation = _read(answer, door)
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except NoDoor as wrong:
        complain(str(wrong))
        return ExitCode.USAGE
    except NoAnswer as silence:
        return tell_silence(silence, loaded, door)
    if as_json:
        write_json(msgspec.to_builtins(explanation))
    else:
        write("".join(story(explanation)))
    if explanation.calls:
        return ExitCode.OK
    complain(f"nothing is known of {name} under this identity: it never came, or is forgotten")
    return ExitCode.UNKNOWN


def _read(answer: Answer, door: Door) -> Explanation:
    if answer.status != 200:
        raise answer.refusal(door.url)
    try:
        return msgspec.json.decode(answer.body, type=Explanation)
    except msgspec.MsgspecError as misfit:
        raise NoAnswer(f"what listens at {door.url} explains nothing: {misfit}") from None
