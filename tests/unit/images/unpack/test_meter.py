import os

from shim.images.unpack.meter import Meter


def test_what_one_process_shows_another_reads() -> None:
    reader, fd = Meter.make()
    writer = Meter(fd)
    os.close(fd)
    assert (reader.usage(), reader.moves()) == ((0, 0), 0)
    writer.show(1 << 40, 7)
    writer.show(1 << 40, 7)
    assert (reader.usage(), reader.moves()) == ((1 << 40, 7), 2)
    writer.close()
    reader.close()
