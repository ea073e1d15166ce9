from dataclasses import dataclass

from shim._proto import api_pb2 as cri
from shim.api.listing import Listing


@dataclass(frozen=True)
class Spec:
    id: str


def listing() -> tuple[Listing[Spec, int], list[str]]:
    encoded: list[str] = []

    def encode(spec: Spec, state: int) -> bytes:
        encoded.append(spec.id)
        item = cri.Container(id=spec.id, state=state)  # type: ignore[arg-type]
        return cri.ListContainersResponse(containers=[item]).SerializeToString()

    return Listing(encode), encoded


def test_the_pieces_together_are_one_response() -> None:
    items, _ = listing()
    pieces = items.pieces([(Spec("a"), 1), (Spec("b"), 2)], whole=True)
    answer = cri.ListContainersResponse.FromString(b"".join(pieces))
    assert [(each.id, each.state) for each in answer.containers] == [("a", 1), ("b", 2)]


def test_nothing_is_encoded_twice_in_the_same_state() -> None:
    items, encoded = listing()
    spec = Spec("a")
    for state in (1, 1, 2, 2):
        items.pieces([(spec, state)], whole=True)
    assert encoded == ["a", "a"]


def test_a_spec_made_anew_under_the_same_id_is_encoded_anew() -> None:
    items, encoded = listing()
    items.pieces([(Spec("a"), 1)], whole=True)
    items.pieces([(Spec("a"), 1)], whole=True)
    assert encoded == ["a", "a"]


def test_only_a_whole_list_forgets_what_it_does_not_have() -> None:
    items, encoded = listing()
    a, b = Spec("a"), Spec("b")
    items.pieces([(a, 1), (b, 1)], whole=True)
    items.pieces([(a, 1)], whole=False)
    items.pieces([(b, 1)], whole=True)
    assert encoded == ["a", "b"]
    items.pieces([(a, 1)], whole=True)
    assert encoded == ["a", "b", "a"]


def test_pieces_of_what_is_gone_are_forgotten() -> None:
    items, encoded = listing()
    gone, here = Spec("a"), Spec("b")
    items.piece(gone, 1)
    items.piece(here, 1)
    items.keep(["b"])
    items.piece(gone, 1)
    items.piece(here, 1)
    assert encoded == ["a", "b", "a"]
