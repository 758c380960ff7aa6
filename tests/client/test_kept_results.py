"""Results of calls with a key are left unacknowledged for a while, within bounds."""

from exai.client.daemon_client import DaemonClient
from exai.client.kept_results import KeptResults
from tests.client.scripted_daemon import TOKEN, Frame, Peer, ScriptedDaemon, scripted_daemon


def acked(daemon: ScriptedDaemon) -> list[str]:
    return [id_ for frame in daemon.heard if frame["op"] == "ack" for id_ in frame["request_ids"]]


async def test_the_last_results_of_keyed_calls_are_kept_and_others_are_not() -> None:
    async def answer(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.answer(call, "done", meta={"call_id": "c"})

    async with scripted_daemon() as daemon:
        daemon.tools["answer"] = answer
        async with DaemonClient(daemon.url, token=TOKEN, keep_keyed=1) as client:
            await client.call("answer", request_id="plain")
            await client.call("answer", request_id="first", idempotency_key="k1")
            await client.health()
            assert acked(daemon) == ["plain"]
            await client.call("answer", request_id="second", idempotency_key="k2")
            await client.health()
            assert acked(daemon) == ["plain", "first"]


def test_too_many_bytes_are_let_go_oldest_first() -> None:
    kept = KeptResults(10, max_bytes=100)
    assert kept.add("a", 60) == []
    assert kept.add("b", 40) == []
    assert kept.add("c", 10) == ["a"]
    assert [kept.has(each) for each in "abc"] == [False, True, True]
    assert kept.add("huge", 1000) == ["b", "c", "huge"]
    kept.clear()
    assert kept.add("d", 100) == []
