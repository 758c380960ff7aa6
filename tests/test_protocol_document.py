"""The protocol's page and its code say the same."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from exai.core.errors import ErrorCode, ExaiError
from exai.core.replies import CallAcked, CallMeta
from exai.protocols import close_codes
from exai.protocols.close_codes import Close
from exai.protocols.exai_v1 import OPS, SENT_OPS, encode
from exai.protocols.hello import HelloAck, Limits

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
ERROR_ROWS = dict(re.findall(r"^\| `([A-Z_]+)` \|.*\| ([^|]+) \|$", PAGE, re.MULTILINE))
NOT_SENT_YET = set(
    re.findall(r"`([A-Z_]+)`", PAGE.partition("nothing sends ")[2].partition(" |")[0])
)
JOURNEYS = "".join(path.read_text() for path in Path(__file__).parent.glob("journeys/test_*.py"))
CLOSES = [value for value in vars(close_codes).values() if isinstance(value, Close)]


def subclasses(root: type[ExaiError]) -> list[type[ExaiError]]:
    return [root, *(deep for child in root.__subclasses__() for deep in subclasses(child))]


def test_every_error_code_has_its_row_and_every_row_its_code() -> None:
    assert set(ERROR_ROWS) == {code.value for code in ErrorCode}


@pytest.mark.parametrize("error", subclasses(ExaiError), ids=lambda error: error.__name__)
def test_an_error_is_retryable_where_the_page_says_so(error: type[ExaiError]) -> None:
    said = ERROR_ROWS[error.code]
    if said in ("yes", "no"):
        assert error.retryable is (said == "yes")


def test_error_classes_and_codes_are_one_to_one() -> None:
    codes = [error.code for error in subclasses(ExaiError)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("code", sorted(ERROR_ROWS.keys() - NOT_SENT_YET))
def test_every_error_code_that_is_sent_is_seen_by_a_journey(code: str) -> None:
    assert f'"{code}"' in JOURNEYS


@pytest.mark.parametrize("op", OPS)
def test_every_op_that_is_read_stands_on_the_page(op: str) -> None:
    assert f'"op":"{op}"' in PAGE.replace('"op": "', '"op":"')


@pytest.mark.parametrize("op", sorted(SENT_OPS))
def test_every_op_that_is_sent_stands_on_the_page(op: str) -> None:
    assert f'"op":"{op}"' in PAGE.replace('"op": "', '"op":"')


def test_every_close_stands_on_the_page_with_its_reason() -> None:
    on_page = {(int(code), reason) for code, reason in re.findall(r"(\d{4}) `([^`]+)`", PAGE)}
    assert set(map(tuple, CLOSES)) == on_page


def test_the_page_shows_every_limit_that_a_hello_ack_has() -> None:
    shown = re.search(r'"limits": (\{.*?\})', PAGE, re.DOTALL)
    assert shown is not None
    assert set(json.loads(shown[1])) == set(Limits.__struct_fields__)


def test_the_page_shows_every_field_of_a_hello_ack_but_the_reason_of_no_resume() -> None:
    shown = re.search(r'\{"op": "hello_ack", "ok": true.*?"pending": \[.*?\]\}', PAGE, re.DOTALL)
    assert shown is not None
    assert set(json.loads(shown[0])) == {"op", *HelloAck.__struct_fields__} - {"resume_error"}


def test_the_page_shows_an_ack_as_it_is_written() -> None:
    shown = re.search(r'`(\{"op":"call_tool_ack".*?\})`', PAGE)
    assert shown is not None
    ack = CallAcked("r2", "chat", "…", 60.0)
    assert json.loads(encode(ack)) == json.loads(shown[1])


def test_the_page_shows_everything_that_a_results_meta_may_have() -> None:
    shown = re.search(r'"meta": (\{.*?\}\})\}', PAGE, re.DOTALL)
    assert shown is not None
    fields = set(msgspec.json.decode(shown[1]))
    assert fields >= set(CallMeta.__struct_fields__)
