import pytest

from shim import errors
from shim.api import budget


def test_a_list_with_room_takes_another() -> None:
    budget.check_list("containers", 1000, b"y")


def test_a_list_that_would_outgrow_a_message_does_not() -> None:
    with pytest.raises(errors.ResourceExhausted, match="the list of containers would take 15728641 bytes"):
        budget.check_list("containers", budget.LIST_BYTES, b"y")
