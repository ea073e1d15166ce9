from shim.services.rates import Rates

S = 1_000_000_000


def test_the_first_reading_is_compared_with_the_start() -> None:
    assert Rates().note("a", 14 * S, 2 * S, 10 * S) == S // 2


def test_a_rate_is_of_the_time_between_readings_not_of_the_whole_life() -> None:
    rates = Rates()
    rates.note("a", 100 * S, 0, 10 * S)
    assert rates.note("a", 110 * S, 5 * S, 10 * S) == S // 2


def test_readings_that_follow_too_fast_are_compared_with_one_that_lies_further_back() -> None:
    rates = Rates()
    for at, used in ((100, 0), (110, 5)):
        rates.note("a", at * S, used * S, 10 * S)
    assert rates.note("a", 110 * S + S // 2, 5 * S + S // 2, 10 * S) == (5 * S + S // 2) * 2 // 21
    assert rates.note("a", 112 * S, 6 * S, 10 * S) == S // 2


def test_nothing_is_known_at_the_instant_of_the_start() -> None:
    assert Rates().note("a", 10 * S, 0, 10 * S) is None


def test_a_counter_that_went_back_is_another_ones() -> None:
    rates = Rates()
    rates.note("a", 100 * S, 50 * S, 10 * S)
    assert rates.note("a", 110 * S, 10 * S, 90 * S) == S // 2


def test_what_is_gone_is_forgotten() -> None:
    rates = Rates()
    rates.note("a", 100 * S, 50 * S, 10 * S)
    rates.keep({"b"})
    assert rates.note("a", 101 * S, 50 * S, 1 * S) == S // 2
