"""Names may be too many, never too few, in whatever order the answers come."""

from exai.stores.request_names import RequestNames


def test_a_session_must_be_loaded_before_its_requests_are_known() -> None:
    names = RequestNames()
    assert names.may_have("s1", "r1") is None
    names.add("s1", "r1")
    assert names.may_have("s1", "r1") is None, "what was stored before is not there yet"
    names.load("s1", ["r2"])
    assert [names.may_have("s1", f"r{n}") for n in (1, 2, 3)] == [True, True, False]
    assert names.may_have("s2", "r1") is None


def test_what_is_forgotten_is_known_no_more() -> None:
    names = loaded("r1", "r2", "r3")
    names.discard([("s1", "r1"), ("s1", "r9"), ("s9", "r2"), (None, "r3")], names.mark())
    assert [names.may_have("s1", f"r{n}") for n in (1, 2, 3)] == [False, True, True]


def test_what_was_loaded_and_what_was_added_can_be_forgotten() -> None:
    names = loaded("r1")
    names.mark()
    names.add("s1", "r2")
    names.discard([("s1", "r1"), ("s1", "r2")], names.mark())
    assert [names.may_have("s1", f"r{n}") for n in (1, 2)] == [False, False]


def test_what_was_stored_anew_before_the_answer_of_a_deletion_stays() -> None:
    names = loaded("r1", "r2")
    mark = names.mark()
    names.add("s1", "r1")
    names.discard([("s1", "r1"), ("s1", "r2")], mark)
    assert [names.may_have("s1", f"r{n}") for n in (1, 2)] == [True, False]


def test_a_late_answer_of_a_question_makes_nothing_older() -> None:
    names = loaded()
    mark = names.mark()
    names.add("s1", "r1")
    names.load("s1", ["r1"])
    names.discard([("s1", "r1")], mark)
    assert names.may_have("s1", "r1") is True


def test_an_ended_session_is_loaded_anew() -> None:
    names = loaded("r1")
    names.end_session("s1", names.mark())
    names.end_session("s9", names.mark())
    assert names.may_have("s1", "r1") is None
    names.load("s1", [])
    assert names.may_have("s1", "r1") is False


def test_what_was_stored_while_its_session_ended_stays() -> None:
    names = loaded("r1")
    names.add("s1", "r2")
    mark = names.mark()
    names.add("s1", "r3")
    names.end_session("s1", mark)
    assert names.may_have("s1", "r3") is None, "there may be more"
    names.load("s1", [])
    assert [names.may_have("s1", f"r{n}") for n in (1, 2, 3)] == [False, False, True]


def loaded(*stored: str) -> RequestNames:
    names = RequestNames()
    names.load("s1", stored)
    return names
