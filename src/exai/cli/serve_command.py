"""`exai serve`: the daemon in the foreground, from its configuration to its last breath."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import NamedTuple, NoReturn

import msgspec

from exai.calls.upstream_control import ReadConfig
from exai.cli import serve_signals
from exai.cli.address_file import leave_address, leave_refusal, remove_address
from exai.cli.config_faults import refuse_config, show_warnings
from exai.cli.config_file import (
    CommandLine,
    ConfigProblems,
    LoadedConfig,
    load_config,
    process_environment,
    take_variables,
)
from exai.cli.config_reading import read_again
from exai.cli.exit_codes import ExitCode
from exai.cli.secret_references import SecretUnreadable
from exai.cli.serve_signals import Hangup, Wish
from exai.cli.state_token import make_state_dir, make_state_token, token_path
from exai.cli.successor import become_successor, take_inheritance
from exai.cli.successor_check import CHECK_WITHIN_S
from exai.cli.terminal import complain, write
from exai.cli.time_to_end import time_to_end_s
from exai.cli.upgrade import Upgrade
from exai.core.clock import SystemClock
from exai.core.config import Config, PrincipalConfig, Secret
from exai.core.errors import ServiceUnavailable
from exai.core.events import DaemonCutShort, DaemonFailed, UpgradeFailed
from exai.core.lifecycle import lone_cause, running
from exai.core.token_store import RotationsUnreadable
from exai.observe.logs import LogSink, configure_logging
from exai.observe.metrics import Fanout
from exai.observe.systemd_notifier import SYSTEMD_VARIABLES, SystemdNotifier
from exai.processes.succession import Inheritance
from exai.stores.instance_lock import AlreadyRunning
from exai.stores.sqlite_file import DatabaseUnusable
from exai.transports.doors import DaemonAddress
from exai.transports.server_certificate import CertificateUnusable
from exai.ws_server import build_daemon

_UNUSABLE = (
    SecretUnreadable,
    RotationsUnreadable,
    DatabaseUnusable,
    ServiceUnavailable,
    CertificateUnusable,
    OSError,
)
_REFUSALS = (AlreadyRunning, *_UNUSABLE)
_COLLECTOR_THRESHOLDS = (2000, 5, 50)


def run_serve(command_line: CommandLine, *, only_check: bool = False) -> ExitCode:
    """Run the daemon until it is told to stop; or say whether it would run.

    A daemon that is told to make room for its successor does not return: it becomes it.
    """
    hangup = Hangup()
    inherited = take_inheritance(os.getppid() if only_check else os.getpid())
    notified = take_variables(*SYSTEMD_VARIABLES)
    try:
        loaded = load_config(command_line)
        show_warnings(loaded.warnings)
        config = _with_token(loaded)
        if only_check:
            return _check(config, inherited)
        serve_signals.hold_back()
        with (
            configure_logging(config.server.log_level, colors=_may_color()) as log,
            _end_within(time_to_end_s(config.server), log) as limit,
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            manager = SystemdNotifier(notified, SystemClock())
            surroundings = _Surroundings(log, manager, limit, hangup)
            served = runner.run(
                _serve(
                    config,
                    surroundings,
                    inherited,
                    _whereabouts_of_token(loaded),
                    partial(read_again, command_line, loaded.config),
                )
            )
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except AlreadyRunning as other:
        complain(str(other))
        return ExitCode.ALREADY_RUNNING
    except _UNUSABLE as error:
        complain(f"cannot serve: {error}")
        return ExitCode.CANNOT_SERVE
    if isinstance(served, ExitCode):
        return served
    hangup.leave_as_found()
    return _succeed(config, served, process_environment() | notified)


def calm_collector() -> None:
    """Let the garbage collector look at what is there for good no more, and at the rest rarely.

    While it looks at everything nobody is served: a tenth of a second with 1,000 connections.
    What a connection leaves behind is in no cycles, and does not wait for it.
    """
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


class _Surroundings(NamedTuple):
    """What a daemon that serves in a process of its own has around it."""

    log: LogSink
    manager: SystemdNotifier
    limit: threading.Timer
    hangup: Hangup


def _check(config: Config, inherited: Inheritance) -> ExitCode:
    """Do what comes before serving. Raises what would keep a daemon from it."""
    signal.alarm(round(CHECK_WITHIN_S))  # whoever asked may be gone, and we hold its sockets
    build_daemon(config, environment=process_environment(), events=Fanout()).rehearse(inherited)
    return ExitCode.OK


def _succeed(config: Config, upgrade: Upgrade, environment: dict[str, str]) -> ExitCode:
    """Become the successor; return only where that is not wanted any more, or cannot be."""
    failure = None
    if upgrade.inheritance is not None:
        failure = become_successor(environment, upgrade.inheritance)
    remove_address(config.state_dir)
    if failure is None:
        return ExitCode.OK
    with configure_logging(config.server.log_level, colors=_may_color()) as log:
        log.emit(UpgradeFailed(failure))
    return ExitCode.DEFECT


def _with_token(loaded: LoadedConfig) -> Config:
    """Return the configuration with a token in it: the one of the state directory, if none is set.

    Raises `SecretUnreadable` or `OSError`.
    """
    config = loaded.config
    make_state_dir(config.state_dir)
    if config.auth.mode == "none" or config.principals:
        return config
    token = Secret(make_state_token(config.state_dir))
    principals = {"default": PrincipalConfig(token=token, may_rotate=True, admin=True)}
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
    config: Config,
    around: _Surroundings,
    inherited: Inheritance,
    token_whereabouts: str,
    read_config: ReadConfig,
) -> ExitCode | Upgrade:
    """Serve until told to stop; return how it was, or the upgrade that is to follow."""
    stop, is_open = asyncio.Event(), asyncio.Event()
    events = Fanout(around.log, around.manager)
    agreed: Upgrade | None = None

    def tell_ready(address: DaemonAddress) -> None:
        is_open.set()
        calm_collector()
        _tell_ready(config, address, token_whereabouts)

    try:
        daemon = build_daemon(
            config, environment=process_environment(), events=events, read_config=read_config
        )
        upgrade = Upgrade(daemon, stop, events, partial(_tell_refused, config))
        _heed_signals(stop, upgrade, around)
        with lone_cause():
            async with running(
                _limit_end(stop, around.limit),
                around.manager.run_watchdog(),
                upgrade.run(is_open),
            ):
                await daemon.run(stop, tell_ready, inherited)
        agreed = upgrade if upgrade.inheritance is not None else None
    except Exception as error:
        if isinstance(error, _REFUSALS) and not is_open.is_set():
            raise
        events.emit(DaemonFailed(error))
        return ExitCode.DEFECT
    finally:
        if agreed is None:
            remove_address(config.state_dir)
        else:
            serve_signals.hold_back()
    return agreed or ExitCode.OK


def _heed_signals(stop: asyncio.Event, upgrade: Upgrade, around: _Surroundings) -> None:
    """Have signals heeded from now on, first those that have waited for it."""
    loop = asyncio.get_running_loop()
    end = partial(_stop_or_die, stop, upgrade, around.log)

    def heed_hangup() -> None:
        wish = around.hangup.wish()
        if wish is Wish.UPGRADE:
            upgrade.ask()
        elif wish is Wish.END:
            end(signal.SIGHUP)

    def wake_up() -> None:
        with suppress(RuntimeError):  # the loop is closed: whatever was wished for is being done
            loop.call_soon_threadsafe(heed_hangup)

    for number in serve_signals.STOP_SIGNALS:
        loop.add_signal_handler(number, end, number)
    around.hangup.on_signal(wake_up)
    serve_signals.let_through()


def _tell_ready(config: Config, address: DaemonAddress, token_whereabouts: str) -> None:
    ws, http = address
    ready = f"exai {version('exai')} is ready: {ws}, {http}; {token_whereabouts}\n"
    certificate = config.server.tls_certificate
    for tell in (
        partial(leave_address, config.state_dir, ws, http, certificate),
        partial(write, ready),
    ):
        try:
            tell()
        except OSError as error:  # it serves all the same, whoever wanted to know
            complain(f"warning: cannot say that the daemon is ready: {error}")


def _tell_refused(config: Config, reason: str) -> None:
    """Tell who asked for the upgrade, and waits in another process."""
    try:
        leave_refusal(config.state_dir, reason)
    except OSError as error:
        complain(f"warning: cannot say why an upgrade was refused: {error}")


def _stop_or_die(stop: asyncio.Event, upgrade: Upgrade, events: LogSink, number: int) -> None:
    """The first signal asks for a calm end, for good; the second one does not wait for it."""
    if upgrade.abandon():
        return
    if stop.is_set():
        _die(f"a second signal, {signal.Signals(number).name}", 128 + number, events)
    stop.set()


async def _limit_end(stop: asyncio.Event, limit: threading.Timer) -> None:
    """Let the time run from which on the daemon should be ending."""
    await stop.wait()
    limit.start()


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
        if limit.is_alive():
            limit.join()


def _die(reason: str, status: int, events: LogSink) -> NoReturn:
    """End here and now; the guard ends the children when it finds the daemon gone.

    By an exit status, since the signal's own action would not end a container's first process.
    """
    events.emit(DaemonCutShort(reason))
    events.close()
    os._exit(status)
