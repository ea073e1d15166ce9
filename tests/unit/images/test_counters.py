from shim.images.counters import OTHER, Counters


def test_hosts_beyond_a_limit_share_their_counters() -> None:
    counters = Counters()
    for number in range(150):
        counters.host(f"h{number}").fetched_bytes += 1
    assert counters.host("h0").fetched_bytes == 1
    assert counters.host("h149") is counters.host(OTHER)
    assert counters.fetched_bytes == 150
    assert len(counters.hosts) == 101
