from shim.images.progress import ProgressHub, Tracker


def test_reports_go_to_who_listens() -> None:
    hub = ProgressHub()
    heard: list[tuple[str, str, int, int]] = []
    with hub.listen(("a",), lambda *report: heard.append(report)), hub.listen(("a", "b"), None):
        hub.report("a", "x", "done", 1, 2)
        hub.relay("b")("y", "done", 1, 2)
    hub.report("a", "x", "done", 1, 2)
    assert heard == [("x", "done", 1, 2)]


def test_a_tracker_sums_up_what_moves() -> None:
    tracker = Tracker("reference")
    assert (tracker.state(1, 0).total_bytes, tracker.state(1, 0).layers) == (0, 0)
    tracker.count = 3
    tracker.hear("a", "exists", 10, 10)
    tracker.hear("b", "downloading", 5, 20)
    tracker.hear("b", "done", 20, 20)
    tracker.hear("c", "downloading", 7, 30)
    state = tracker.state(2, 99)
    assert (state.callers, state.fetched_bytes) == (2, 99)
    assert (state.unpacked_bytes, state.total_bytes) == (27, 50)
    assert (state.layers_done, state.layers) == (2, 3)
    assert tracker.fetched_layers() == 1
