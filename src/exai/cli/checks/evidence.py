"""What the checks judge, gathered once: the configuration, and the daemon as it is found.

Looks and asks; changes nothing, and starts nothing.
"""

from urllib.parse import urlsplit

import msgspec

from exai.cli.address_file import Address, find_address
from exai.cli.config_file import LoadedConfig
from exai.cli.daemon_door import Door, NoDoor, find_http_door
from exai.cli.daemon_health import HealthAnswer, ask_health
from exai.cli.daemon_http import NoAnswer
from exai.cli.health_picture import Health, UnknownShape, read_health
from exai.stores.instance_lock import Holder, find_holder


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """`holder` is the daemon that runs here; `silence` says why there is no `answer` of it.

    `is_whole` is False where the configuration has faults, and was read without the parts
    that only a daemon needs; `is_closed` is True where this user cannot look into the state
    directory. `health` is there where the daemon took the token.
    """

    loaded: LoadedConfig
    is_whole: bool
    is_closed: bool
    holder: Holder | None
    address: Address | None
    door: Door | None
    answer: HealthAnswer | None
    health: Health | None
    silence: str

    @property
    def pid(self) -> int | None:
        """The process of the daemon that runs here, as far as is known."""
        return self.holder.pid if self.holder else None

    @property
    def ports(self) -> tuple[int | None, int | None]:
        """Where the daemon that runs here listens: for WebSockets, and for HTTP."""
        if self.health is not None:
            return self.health.port, self.health.http_port
        if self.address is not None and self.address.pid == self.pid:
            urls = self.address.websocket_url, self.address.http_url
            return urlsplit(urls[0]).port, urlsplit(urls[1]).port
        return None, None


def gather(loaded: LoadedConfig, principal: str | None, *, is_whole: bool) -> Evidence:
    """Look at the state directory, and ask the daemon that runs there, if one does.

    Without one nobody is asked, so that no stranger at its port is shown the token.
    """
    holder, door, answer, health, silence = None, None, None, None, ""
    is_closed = False
    try:
        holder = find_holder(loaded.config.state_dir)
    except OSError:
        is_closed = True
    try:
        door = find_http_door(loaded, None, principal)
        answer = ask_health(door) if holder else None
        health = read_health(answer.report) if answer and answer.is_whole else None
    except (NoDoor, NoAnswer, UnknownShape) as fault:
        silence = str(fault)
    return Evidence(
        loaded=loaded,
        is_whole=is_whole,
        is_closed=is_closed,
        holder=holder,
        address=find_address(loaded.config.state_dir),
        door=door,
        answer=answer,
        health=health,
        silence=silence,
    )
