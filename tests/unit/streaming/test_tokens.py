from __future__ import annotations

import pytest

from shim.errors import ResourceExhausted
from shim.streaming import tokens
from shim.streaming.tokens import Tokens


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_good_once() -> None:
    some: Tokens[str] = Tokens()
    token = some.add("x")
    assert some.take(token) == "x"
    assert some.take(token) is None


@pytest.mark.parametrize("token", ["", "wrong", "\udcff", "ä"])
def test_a_wrong_token_is_nothing(token: str) -> None:
    some: Tokens[str] = Tokens()
    some.add("x")
    assert some.take(token) is None


def test_a_token_expires() -> None:
    clock = Clock()
    some: Tokens[str] = Tokens(clock)
    token = some.add("x")
    clock.now += tokens.LIFETIME_S
    assert some.take(token) is None


def test_tokens_are_long_and_differ() -> None:
    some: Tokens[int] = Tokens()
    made = {some.add(n) for n in range(100)}
    assert len(made) == 100
    assert min(map(len, made)) >= 22  # 128 bits in base64


def test_their_number_is_bounded() -> None:
    clock = Clock()
    some: Tokens[int] = Tokens(clock)
    for n in range(tokens.MOST):
        some.add(n)
    with pytest.raises(ResourceExhausted, match="wait for their clients"):
        some.add(0)
    clock.now += tokens.LIFETIME_S
    some.add(0)
