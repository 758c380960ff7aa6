"""One request to the daemon's HTTP port for a command, and every way in which it may end.

Knows doors, statuses and what is said of them; not what the answers mean.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, LoadedConfig, load_config
from exai.cli.daemon_door import Door, NoDoor, find_http_door
from exai.cli.daemon_http import Answer, NoAnswer, ask
from exai.cli.exit_codes import ExitCode
from exai.cli.no_answer import tell_silence, tell_unauthorized
from exai.cli.terminal import complain

T = TypeVar("T")

_STATUSES = {
    403: ExitCode.REFUSED,
    404: ExitCode.UNKNOWN,
    503: ExitCode.NOT_READY,
}


class Ended(Exception):
    """The command is over: what is wrong was said, and this is the status to end with."""

    def __init__(self, status: ExitCode) -> None:
        super().__init__(status)
        self.status = status


class DaemonRequests:
    """Requests to the daemon that a command line leads to. Each raises `Ended` where it fails."""

    def __init__(
        self, command_line: CommandLine, url: str | None, principal: str | None, what: str
    ) -> None:
        """`what` names what is told or done, in a sentence about a missing token."""
        self._what = what
        try:
            self._loaded: LoadedConfig = load_config(command_line, for_client=True)
            self._door: Door = find_http_door(self._loaded, url, principal)
        except ConfigProblems as wrong:
            raise Ended(refuse_config(wrong)) from None
        except NoDoor as wrong:
            complain(str(wrong))
            raise Ended(ExitCode.USAGE) from None

    def get(self, path: str, kind: type[T]) -> T:
        """Return what is said at this path."""
        return self._read(lambda: ask(self._door, path), kind)

    def post(self, path: str, kind: type[T], *, patience_s: float, also: int = 200) -> T:
        """Have something done at this path; return what came of it. `also` is no failure."""
        return self._read(
            lambda: ask(self._door, path, method="POST", patience_s=patience_s), kind, also
        )

    def _read(self, asking: Callable[[], Answer], kind: type[T], also: int = 200) -> T:
        try:
            answer = asking()
            if answer.status in (200, also):
                return msgspec.json.decode(answer.body, type=kind)
            raise Ended(self._refused(answer))
        except NoAnswer as silence:
            raise Ended(tell_silence(silence, self._loaded, self._door)) from None
        except NoDoor as wrong:
            complain(str(wrong))
            raise Ended(ExitCode.USAGE) from None
        except msgspec.MsgspecError as misfit:
            strange = NoAnswer(f"what listens at {self._door.url} has another version? {misfit}")
            raise Ended(tell_silence(strange, self._loaded, self._door)) from None

    def _refused(self, answer: Answer) -> ExitCode:
        if answer.status == 401:
            return tell_unauthorized(self._door, self._what)
        status = _STATUSES.get(answer.status)
        reason = _error_in(answer.body)
        if status is None or reason is None:
            raise answer.refusal(self._door.url)
        complain(reason)
        return status


def _error_in(body: bytes) -> str | None:
    try:
        error = msgspec.json.decode(body, type=dict[str, str]).get("error")
    except msgspec.MsgspecError:
        return None
    # Starlette's own words for a path that an older daemon does not have.
    return None if error in (None, "Not Found") else error
