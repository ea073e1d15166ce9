from shim.api.timeline import encode
from shim.model.timeline import Entry, StageTime
from shim.services.why import Explanation


def test_an_explanation_as_a_message() -> None:
    entry = Entry(
        5, "RunPodSandbox", ("k",), "no", False, "network", 7, (StageTime("network", 1, 6, True),), 2
    )
    message = encode(Explanation("pod", (entry,), ("teardown",), "because"))
    assert (message.title, list(message.waiting), message.conclusion) == ("pod", ["teardown"], "because")
    (told,) = message.entries
    assert (told.at_ns, told.what, told.text, told.ok, told.stage, told.took_us, told.times) == (
        5, "RunPodSandbox", "no", False, "network", 7, 2,
    )  # fmt: skip
    assert [(s.name, s.depth, s.took_us, s.failed) for s in told.stages] == [("network", 1, 6, True)]
