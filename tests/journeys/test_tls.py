"""Both ports behind a certificate, which may be replaced while the daemon runs."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from exai.client.daemon_client import DaemonClient
from exai.client.errors import DaemonUnreachable
from exai.core.config import ServerConfig
from exai.core.events import CertificateLoaded, CertificateRefused
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.transports.server_certificate import CertificateUnusable
from tests.journeys.wire import open_wire

HOST = "127.0.0.1"


class Files:
    """The two files that the daemon reads; a file is replaced as tools do it, at one stroke."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "certificate.pem"
        self.key = directory / "key.pem"

    def hold(self, issued: trustme.LeafCert) -> None:
        self.replace(self.key, issued.private_key_pem.bytes())
        self.replace(self.certificate, b"".join(b.bytes() for b in issued.cert_chain_pems))

    @staticmethod
    def replace(path: Path, content: bytes) -> None:
        if path.is_dir():
            path.rmdir()
        draft = path.with_suffix(".new")
        draft.write_bytes(content)
        os.replace(draft, path)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> Files:
    files = Files(tmp_path)
    files.hold(authority.issue_cert(HOST))
    return files


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def daemon_with(files: Files, state_dir: Path, **server: Any) -> AsyncIterator[RunningDaemon]:
    config = ServerConfig(
        tls_certificate=files.certificate,
        tls_key=files.key,
        tls_reload_interval_s=0.02,
        **server,
    )
    async with running_daemon(daemon_config(state_dir / "state", server=config)) as daemon:
        yield daemon


async def serial_shown(port: int, authority: trustme.CA) -> str:
    """Return the serial number of the certificate that a new connection is shown."""
    _, writer = await asyncio.open_connection(HOST, port, ssl=trusting(authority))
    certificate = writer.get_extra_info("peercert")
    writer.transport.abort()
    return str(certificate["serialNumber"])


async def get(url: str, tls: ssl.SSLContext) -> dict[str, Any]:
    host, _, port = url.removeprefix("https://").rstrip("/").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.transport.abort()
    body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return body


async def test_both_ports_speak_tls(files: Files, tmp_path: Path, authority: trustme.CA) -> None:
    tls = trusting(authority)
    async with daemon_with(files, tmp_path) as daemon:
        assert daemon.url.startswith("wss://")
        async with open_wire(daemon.url, token=TOKEN, ssl=tls) as wire:
            long_text = "x" * 3_000_000
            answer = await wire.call("echo", arguments={"text": long_text})
            assert answer["outputs"] == [{"type": "text", "text": long_text}]
        assert await get(daemon.address.http_url, tls) == {"status": "ok"}


async def test_who_is_sent_away_reads_why(
    files: Files, tmp_path: Path, authority: trustme.CA
) -> None:
    async with (
        daemon_with(files, tmp_path) as daemon,
        open_wire(daemon.url, greet=False, says_bye=False, ssl=trusting(authority)) as wire,
    ):
        assert (await wire.hello(token="wrong"))["error"] == "unauthorized"
        assert await wire.closed() == (4003, "unauthorized")


async def test_the_client_judges_the_certificate(
    files: Files, tmp_path: Path, authority: trustme.CA
) -> None:
    async with daemon_with(files, tmp_path) as daemon:
        tls = trusting(authority)
        async with DaemonClient(daemon.url, token=TOKEN, tls=tls) as client:
            assert (await client.call("echo", {"text": "hi"})).outputs
        with pytest.raises(DaemonUnreachable, match="certificate verify failed"):
            async with DaemonClient(daemon.url, token=TOKEN):
                pass


async def test_who_speaks_no_tls_is_dropped_and_others_are_served(
    files: Files, tmp_path: Path, authority: trustme.CA
) -> None:
    async with daemon_with(files, tmp_path, hello_timeout_s=0.1) as daemon:
        port = int(daemon.url.rstrip("/").rpartition(":")[2])
        garbled, silent = [await asyncio.open_connection(HOST, port) for _ in range(2)]
        garbled[1].write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for reader, writer in (garbled, silent):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1_000)
            writer.transport.abort()
        async with open_wire(daemon.url, token=TOKEN, ssl=trusting(authority)) as wire:
            assert (await wire.call("echo", arguments={"text": "hi"}))["outputs"]


async def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    files: Files, tmp_path: Path, authority: trustme.CA
) -> None:
    tls = trusting(authority)
    async with daemon_with(files, tmp_path) as daemon:
        ports = [int(url.rstrip("/").rpartition(":")[2]) for url in daemon.address]
        before = {await serial_shown(port, authority) for port in ports}
        async with open_wire(daemon.url, token=TOKEN, ssl=tls) as wire:
            files.hold(authority.issue_cert(HOST))
            await daemon.events.first_of(CertificateLoaded)
            after = {await serial_shown(port, authority) for port in ports}
            assert len(before) == len(after) == 1
            assert before != after
            assert (await wire.call("echo", arguments={"text": "hi"}))["outputs"]


def take_away(files: Files) -> None:
    files.certificate.unlink()


def put_a_directory_there(files: Files) -> None:
    files.certificate.unlink()
    files.certificate.mkdir()


def write_half(files: Files) -> None:
    files.replace(files.key, files.key.read_bytes()[:100])


def mistake_the_key(files: Files) -> None:
    files.replace(files.key, trustme.CA().issue_cert(HOST).private_key_pem.bytes())


FAULTS = [
    (take_away, "certificate.pem: cannot be read: No such file or directory"),
    (put_a_directory_there, "certificate.pem: cannot be read: Is a directory"),
    (write_half, "no certificate and key in PEM format"),
    (mistake_the_key, "the key is not that of the certificate"),
]


@pytest.mark.parametrize(("spoil", "said"), FAULTS)
async def test_files_that_cannot_be_used_leave_the_last_certificate_in_place(
    files: Files,
    tmp_path: Path,
    authority: trustme.CA,
    spoil: Callable[[Files], None],
    said: str,
) -> None:
    async with daemon_with(files, tmp_path) as daemon:
        port = int(daemon.url.rstrip("/").rpartition(":")[2])
        before = await serial_shown(port, authority)
        spoil(files)
        refused = await daemon.events.first_of(CertificateRefused)
        assert said in refused.reason
        assert await serial_shown(port, authority) == before
        files.hold(authority.issue_cert(HOST))
        await daemon.events.first_of(CertificateLoaded)
        assert await serial_shown(port, authority) != before


@pytest.mark.parametrize(("spoil", "said"), FAULTS)
async def test_a_daemon_does_not_start_with_files_that_cannot_be_used(
    files: Files, tmp_path: Path, spoil: Callable[[Files], None], said: str
) -> None:
    spoil(files)
    with pytest.RaisesGroup(
        pytest.RaisesExc(CertificateUnusable, match=said), flatten_subgroups=True
    ):
        async with daemon_with(files, tmp_path):
            pass


async def test_a_key_behind_a_password_is_refused_and_not_asked_for(
    files: Files, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.replace(
        files.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        ),
    )
    with pytest.RaisesGroup(
        pytest.RaisesExc(CertificateUnusable, match="encrypted"), flatten_subgroups=True
    ):
        async with daemon_with(files, tmp_path):
            pass
