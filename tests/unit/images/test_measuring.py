from shim.images.measuring import next_due


def test_what_is_measured_fast_is_measured_every_ten_seconds() -> None:
    assert next_due(100.0, 100.01) == 110.01


def test_what_takes_long_is_measured_seldom() -> None:
    assert next_due(100.0, 103.0) == 403.0
