"""Whatever a server calls its tools, clients are told names that all of them take."""

from hypothesis import given
from hypothesis import strategies as st

from exai.core.config import UpstreamConfig
from exai.upstream.names import Namespace, is_offerable, namespace_of, offerable

LONG = "x" * 80


def test_a_name_that_every_client_takes_stays_as_it_is() -> None:
    for name in ("a", "box__search-2", "x" * 64):
        assert is_offerable(name)
        assert offerable(name) == name


def test_other_characters_are_replaced() -> None:
    assert offerable("files/read.all ünü") == "files_read_all__n_"
    assert offerable("box__a\n") == "box__a_"


def test_a_name_that_is_too_long_is_cut_the_same_way_at_every_start() -> None:
    assert offerable("box__" + LONG) == "box__" + "x" * 50 + "_" + "e81063d5"


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert len({offerable(LONG + end) for end in ("", "a", ".", "_")}) == 4


@given(st.text(min_size=1))
def test_every_name_becomes_one_that_every_client_takes(name: str) -> None:
    assert is_offerable(offerable(name))
    assert offerable(offerable(name)) == offerable(name)


def test_a_prefix_stands_before_every_name_that_was_not_given_one() -> None:
    config = UpstreamConfig(command="box", tools={"find": {"name": "search"}, "put": {}})
    names = namespace_of("box", config)
    assert names.assign(["find", "put"]) == {"find": "search", "put": "box__put"}
    assert names.may_hold("box__anything")
    assert names.may_hold("search")
    assert not names.may_hold("find")


def test_an_empty_prefix_offers_names_as_they_are() -> None:
    assert namespace_of("box", UpstreamConfig(command="box", prefix="")).name_of("put") == "put"


def test_of_names_that_fall_together_the_order_of_a_list_decides_nothing() -> None:
    names = Namespace("", {"z": "a_b"})
    assert names.assign(["a.b", "a_b"]) == names.assign(["a_b", "a.b"]) == {"a_b": "a_b"}
    assert names.assign(["a:b", "a.b"]) == names.assign(["a.b", "a:b"]) == {"a.b": "a_b"}
    assert names.assign(["a_b", "z"]) == {"z": "a_b"}
