"""Random values of the model: every field of every dataclass, and only what a message can carry."""

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import strategies as st

# A message's text is UTF-8: it has no lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def strategy(kind: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is str:
        return TEXT
    if kind is bytes:
        return st.binary(max_size=8)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(0, 2**31 - 1)
    if origin is tuple:
        return st.lists(strategy(arguments[0]), max_size=2).map(tuple)
    if origin is Mapping:
        return st.dictionaries(strategy(arguments[0]), strategy(arguments[1]), max_size=2)
    if origin is types.UnionType:
        return st.one_of([st.none() if each is types.NoneType else strategy(each) for each in arguments])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    assert dataclasses.is_dataclass(kind), kind
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: strategy(hints[field.name]) for field in dataclasses.fields(kind)})


@pytest.fixture(scope="session")
def strategy_of() -> Callable[[Any], st.SearchStrategy[Any]]:
    return strategy
