"""`exai serve`: the daemon in the foreground, from its configuration to its last breath."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import NoReturn

import msgspec

from exai.cli.address_file import leave_address, remove_address
from exai.cli.config_faults import refuse_config, show_warnings
from exai.cli.config_file import (
    CommandLine,
    ConfigProblems,
    LoadedConfig,
    load_config,
    process_environment,
)
from exai.cli.exit_codes import ExitCode
from exai.cli.secret_references import SecretUnreadable
from exai.cli.state_token import make_state_dir, make_state_token, token_path
from exai.cli.terminal import complain, write
from exai.core.config import Config, PrincipalConfig, Secret, ServerConfig
from exai.core.events import DaemonCutShort, DaemonFailed
from exai.core.lifecycle import lone_cause, running
from exai.core.token_store import RotationsUnreadable
from exai.observe.logs import LogSink, configure_logging
from exai.stores.instance_lock import AlreadyRunning
from exai.stores.sqlite_file import DatabaseUnusable
from exai.transports.server_certificate import CertificateUnusable
from exai.ws_server import DaemonAddress, build_daemon

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_UNUSABLE = (
    SecretUnreadable,
    RotationsUnreadable,
    DatabaseUnusable,
    CertificateUnusable,
    OSError,
)
_REFUSALS = (AlreadyRunning, *_UNUSABLE)
_CHILDREN_END_WITHIN_S = 30.0
_COLLECTOR_THRESHOLDS = (2000, 5, 50)


def run_serve(command_line: CommandLine) -> ExitCode:
    """Run the daemon until it is told to stop."""
    try:
        loaded = load_config(command_line)
        show_warnings(loaded.warnings)
        config = _with_token(loaded)
        with (
            configure_logging(config.server.log_level, colors=_may_color()) as events,
            _end_within(_time_to_end_s(config.server), events) as limit,
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            return runner.run(_serve(config, events, limit, _whereabouts_of_token(loaded)))
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except AlreadyRunning as other:
        complain(str(other))
        return ExitCode.ALREADY_RUNNING
    except _UNUSABLE as error:
        complain(f"cannot serve: {error}")
        return ExitCode.CANNOT_SERVE


def calm_collector() -> None:
    """Let the garbage collector look at what is there for good no more, and at the rest rarely.

    While it looks at everything nobody is served: a tenth of a second with 1,000 connections.
    What a connection leaves behind is in no cycles, and does not wait for it.
    """
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


def _with_token(loaded: LoadedConfig) -> Config:
    """Return the configuration with a token in it: the one of the state directory, if none is set.

    Raises `SecretUnreadable` or `OSError`.
    """
    config = loaded.config
    make_state_dir(config.state_dir)
    if config.auth.mode == "none" or config.principals:
        return config
    token = Secret(make_state_token(config.state_dir))
    principals = {"default": PrincipalConfig(token=token, may_rotate=True)}
    return msgspec.structs.replace(config, principals=principals)


def _whereabouts_of_token(loaded: LoadedConfig) -> str:
    if loaded.config.auth.mode == "none":
        return "no token is asked for"
    names = list(loaded.config.principals)
    if not names:
        return f"token in {token_path(loaded.config.state_dir)}"
    return "tokens from " + ", ".join(
        dict.fromkeys(loaded.source_of(f"principals.{name}.token") for name in names)
    )


def _may_color() -> bool:
    return not process_environment().get("NO_COLOR")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    config: Config, events: LogSink, limit: threading.Timer, token_whereabouts: str
) -> ExitCode:
    stop, is_open = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, _stop_or_die, stop, number, events)

    def tell_ready(address: DaemonAddress) -> None:
        is_open.set()
        calm_collector()
        _tell_ready(config, address, token_whereabouts)

    try:
        daemon = build_daemon(config, environment=process_environment(), events=events)
        with lone_cause():
            async with running(_limit_end(stop, limit)):
                await daemon.run(stop, tell_ready)
    except Exception as error:
        if isinstance(error, _REFUSALS) and not is_open.is_set():
            raise
        events.emit(DaemonFailed(error))
        return ExitCode.DEFECT
    finally:
        remove_address(config.state_dir)
    return ExitCode.OK


def _tell_ready(config: Config, address: DaemonAddress, token_whereabouts: str) -> None:
    websocket_url, http_url = address
    try:
        leave_address(config.state_dir, websocket_url, http_url, config.server.tls_certificate)
        write(
            f"exai {version('exai')} is ready: {websocket_url}, {http_url}; {token_whereabouts}\n"
        )
    except OSError as error:  # it serves all the same, whoever wanted to know
        complain(f"warning: cannot say that the daemon is ready: {error}")


def _stop_or_die(stop: asyncio.Event, number: int, events: LogSink) -> None:
    """The first signal asks for a calm end; the second one does not wait for it."""
    if stop.is_set():
        _die(f"a second signal, {signal.Signals(number).name}", 128 + number, events)
    stop.set()


async def _limit_end(stop: asyncio.Event, limit: threading.Timer) -> None:
    """Let the time run from which on the daemon should be ending."""
    await stop.wait()
    limit.start()


def _time_to_end_s(server: ServerConfig) -> float:
    """Return how long an orderly end may take: the calls', the connections', the children's."""
    return server.drain_s + 6 * server.close_timeout_s + _CHILDREN_END_WITHIN_S


@contextmanager
def _end_within(limit_s: float, events: LogSink) -> Iterator[threading.Timer]:
    """Yield what ends the process in so long, once it is started, if the context is open still.

    A thread, since what keeps a daemon from its end may hold its loop.
    """
    reason = f"it did not end within {limit_s:g} s"
    limit = threading.Timer(limit_s, _die, [reason, ExitCode.DEFECT, events])
    limit.daemon = True
    try:
        yield limit
    finally:
        limit.cancel()


def _die(reason: str, status: int, events: LogSink) -> NoReturn:
    """End here and now; the guard ends the children when it finds the daemon gone.

    By an exit status, since the signal's own action would not end a container's first process.
    """
    events.emit(DaemonCutShort(reason))
    events.close()
    os._exit(status)
