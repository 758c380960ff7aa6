"""Checks of the daemon that runs, if one does: does it answer, and to our token?"""

from collections.abc import Iterator
from importlib.metadata import version

from exai.cli.checks.evidence import Evidence
from exai.cli.checks.finding import Finding, ok, problem, warning
from exai.cli.state_token import token_path


def daemon(evidence: Evidence) -> Iterator[Finding]:
    """Does one run on this state directory, and is it ready?"""
    name, answer, health = "daemon", evidence.answer, evidence.health
    if evidence.holder is None:
        yield warning(
            name, f"none runs on {evidence.loaded.config.state_dir}", "start it: exai serve"
        )
        return
    who = f"pid {evidence.pid or 'unknown'}"
    if evidence.door is None:
        yield ok(name, f"{who} runs; without a token it is not asked")
    elif answer is None:
        yield problem(name, f"{who} runs, but {evidence.silence}", _where_it_listens(evidence))
    elif answer.status != "ok":
        parts = ", ".join(part for part in (health.blocked_by if health else ()) if part != name)
        waits_for = f"; it waits for {parts}" if parts else ""
        yield warning(name, f"{who} is not ready: {answer.status}{waits_for}", "try again soon")
    elif health and health.version != version("exai"):
        yield warning(
            name,
            f"{who} is EXAI {health.version}, this command is {version('exai')}",
            "restart the daemon",
        )
    else:
        yield ok(name, f"{who} answers at {evidence.door.url}")
    told = evidence.loaded.warnings
    for sentence in health.warnings if health else ():
        if sentence not in told:
            yield warning(name, sentence)


def token(evidence: Evidence) -> Iterator[Finding]:
    """Is there one, and does the daemon take it?"""
    name, door = "token", evidence.door
    if door is None:
        yield problem(name, evidence.silence)
    elif evidence.answer is None:
        yield ok(name, _untried(evidence))
    elif evidence.health and evidence.health.auth == "none":
        yield ok(name, "the daemon asks for none")
    elif evidence.answer.is_whole:
        yield ok(name, f"the daemon takes the one from {door.token_place}")
    elif door.token is None:
        yield problem(
            name,
            f"the daemon asks for one, and there is none here ({door.token_place})",
            "use the configuration and the environment that the daemon was started with",
        )
    else:
        yield problem(
            name,
            f"the daemon refuses the one from {door.token_place}",
            _how_to_get_the_right_one(evidence),
        )


def _untried(evidence: Evidence) -> str:
    door, config = evidence.door, evidence.loaded.config
    if config.auth.mode == "none":
        return "none is asked for"
    if door is None or door.token is None:
        return f"the first start makes one in {token_path(config.state_dir)}"
    return f"from {door.token_place}; no daemon answers that could judge it"


def _where_it_listens(evidence: Evidence) -> str:
    address, door = evidence.address, evidence.door
    if address and door and address.http_url != door.url and address.pid == evidence.pid:
        return (
            f"it listens at {address.http_url}; correct server.host and server.http_port, "
            "or restart it with them"
        )
    return "see its log; if it hangs, kill it and start it again"


def _how_to_get_the_right_one(evidence: Evidence) -> str:
    own = token_path(evidence.loaded.config.state_dir)
    if evidence.door and evidence.door.state_dir:
        return f"the daemon was started with another one: set that, or restart it to use {own}"
    return "put the daemon's token there, or restart the daemon with this one"
