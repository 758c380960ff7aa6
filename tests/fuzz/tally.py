"""What was sent on one session and what was heard, and whether the one fits the other."""

import json
from collections import Counter, defaultdict
from typing import Any

from exai.core.errors import ErrorCode
from tests.fuzz.frame_oracle import Expectation, is_usable

Frame = dict[str, Any]
NEEDED = {
    "call_tool_ack": {"request_id", "accepted", "name", "call_id", "timeout_s", "timeout"},
    "call_tool_res": {"request_id", "ok", "outputs", "text"},
    "progress": {"request_id", "name", "t"},
    "list_tools_res": {"tools"},
    "health_res": {"ok", "health"},
    "rotate_token_res": {"ok"},
    "error": {"error", "request_id"},
    "hello_ack": {"ok"},
}
OF_ACCEPTED_CALLS = {"ok", "CANCELLED", "TIMEOUT", "TOOL_EXECUTION_ERROR"}
"""What nothing but a call that was accepted ends with; such an answer has a `meta`."""
ABOUT_AN_EARLIER_ONE = {"CANCELLED", "REQUEST_ID_CONFLICT", "RESULT_UNKNOWN"}
DOCUMENTED = {code.value for code in ErrorCode}


class AboutOneId:
    """The requests and answers of one request id."""

    def __init__(self) -> None:
        self.sent: list[list[Expectation]] = []
        self.acks: list[Frame] = []
        self.results: list[Frame] = []

    def count(self, kind: str, *, surely: bool) -> int:
        """Return how many requests are of a kind, surely or perhaps."""
        judge = all if surely else any
        return sum(judge(each.kind == kind for each in readings) for readings in self.sent)

    @property
    def least_results(self) -> int:
        calls = self.count("call", surely=True)
        may_be_called = self.count("call", surely=False) > 0
        lookups = 0 if may_be_called else self.count("lookup", surely=True)
        return self.count("broken", surely=True) + (1 if calls else lookups)

    @property
    def most_results(self) -> int:
        return sum(self.count(kind, surely=False) for kind in ("call", "lookup", "broken"))

    @property
    def codes(self) -> set[str]:
        codes = {code for readings in self.sent for each in readings for code in each.codes}
        return codes | ABOUT_AN_EARLIER_ONE if len(self.sent) > 1 else codes

    @property
    def unanswered(self) -> set[str]:
        """The accepted calls whose answer is yet to come."""
        call_ids = {ack["call_id"] for ack in self.acks}
        return {call_id for call_id in call_ids if not self.has_answer_of(call_id)}

    def has_answer_of(self, call_id: str) -> bool:
        return any(result.get("meta", {}).get("call_id") == call_id for result in self.results)


class Tally:
    """One session's books. `cut` it where a connection was lost, with what may have been on it."""

    def __init__(self) -> None:
        self.least: Counter[tuple[str, str | None, str]] = Counter()
        self.most: Counter[tuple[str, str | None, str]] = Counter()
        self.heard: Counter[tuple[str, str | None, str]] = Counter()
        self.by_id: defaultdict[str, AboutOneId] = defaultdict(AboutOneId)
        self.minted: defaultdict[str, AboutOneId] = defaultdict(AboutOneId)
        self.without_id: list[list[Expectation]] = []
        self.pending: set[str] | None = None

    def expect(self, readings: list[Expectation]) -> None:
        """Note a frame that is about to be sent, by what the page says of it."""
        ids = {each.request_id for each in readings if each.kind in ("call", "lookup", "broken")}
        for request_id in ids:
            if request_id is None:
                self.without_id.append(readings)
            else:
                self.by_id[request_id].sent.append(readings)
        keys = [_key(each) for each in readings]
        self.least.update(key for key in set(keys) if key and keys.count(key) == len(readings))
        self.most.update({key for key in keys if key})

    def hear(self, payload: bytes) -> Frame:
        """Note a frame that came."""
        frame: Frame = json.loads(payload)
        op: str = frame["op"]
        request_id: Any = frame.get("request_id")
        assert NEEDED[op] <= frame.keys(), frame
        error: Any = frame.get("error")
        if error is not None and op not in ("rotate_token_res", "hello_ack"):
            assert {"code", "message", "retryable"} <= error.keys(), frame
            assert error["code"] in DOCUMENTED - {"INTERNAL_ERROR"}, frame
        match op:
            case "call_tool_ack":
                about = self._about(request_id)
                assert frame.get("joined") or not about.has_answer_of(frame["call_id"]), frame
                about.acks.append(frame)
            case "call_tool_res":
                assert "meta" in frame or _code(frame) not in OF_ACCEPTED_CALLS, frame
                self._about(request_id).results.append(frame)
            case "progress":
                assert request_id in self.by_id or request_id in self.minted
            case "error":
                self.heard["error", request_id, error["code"]] += 1
            case _:
                self.heard[op, request_id, ""] += 1
        return frame

    def cut(self, pending: list[str]) -> None:
        """Note that a session came back, and what it says it owes."""
        self.pending = set(pending)
        accepted = {name for name, about in self._all().items() if about.unanswered}
        assert len(pending) == len(self.pending)
        assert accepted <= self.pending, accepted - self.pending

    def has_all_but_results(self) -> bool:
        """Tell whether everything has come that is about no call."""
        return self.least <= self.heard

    def is_complete(self) -> bool:
        """Tell whether everything has come that must come."""
        if self.pending is not None:
            return all(self._about(each).results for each in self.pending) and not any(
                about.unanswered for about in self._all().values()
            )
        surely_minted = sum(len(readings) == 1 for readings in self.without_id)
        return (
            self.has_all_but_results()
            and all(len(a.results) >= a.least_results for a in self.by_id.values())
            and sum(1 for a in self.minted.values() if a.results) >= surely_minted
            and not any(about.unanswered for about in self._all().values())
        )

    def missing(self) -> list[object]:
        """Return what is still waited for."""
        return [
            *(self.least - self.heard),
            *(a.sent for a in self.by_id.values() if len(a.results) < a.least_results),
            *(name for name, a in self._all().items() if a.unanswered),
        ]

    def check(self) -> None:
        """Hold what came against what was sent, when nothing more can come."""
        assert self.is_complete()
        missing, too_many = self.least - self.heard, self.heard - self.most
        assert not missing, missing
        assert not too_many, too_many
        assert len(self.minted) <= len(self.without_id), self.minted.keys()
        for request_id, about in self._all().items():
            self._check_once(about)
            if request_id in self.by_id:
                for result in about.results:
                    assert _code(result) in about.codes, (result, about.sent)
                if self.pending is None:
                    assert len(about.results) <= about.most_results, (about.results, about.sent)
            else:
                assert is_usable(request_id)
                assert self.pending is not None or len(about.results) == 1, about.results

    def _check_once(self, about: AboutOneId) -> None:
        """Each accepted call has one answer that is no replay; replays of one that was lost."""
        call_ids = Counter(
            result["meta"]["call_id"]
            for result in about.results
            if not result.get("meta", {"replayed": True})["replayed"]
        )
        assert all(count == 1 for count in call_ids.values()), about.results
        if self.pending is None:
            for ack in about.acks:
                assert call_ids[ack["call_id"]] == 1, (ack, about.results)

    def _about(self, request_id: str) -> AboutOneId:
        return self.by_id[request_id] if request_id in self.by_id else self.minted[request_id]

    def _all(self) -> dict[str, AboutOneId]:
        return {**self.by_id, **self.minted}


def _key(expected: Expectation) -> tuple[str, str | None, str] | None:
    if expected.kind == "error":
        [code] = expected.codes
        return "error", expected.request_id, code
    is_counted = expected.kind.endswith("_res")
    return (expected.kind, expected.request_id, "") if is_counted else None


def _code(result: Frame) -> str:
    return "ok" if result["ok"] else str(result["error"]["code"])
