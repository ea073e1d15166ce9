import os
import socket

import pytest

from shim.kernel import unix


def test_descriptors_travel_with_a_packet() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        fd = unix.sealed_memfd("plan", b"content")
        unix.send_message(ours, b"hello", [fd])
        os.close(fd)
        data, fds = unix.recv_message(theirs)
        assert (data, [unix.read_fd(f) for f in fds]) == (b"hello", [b"content"])
        assert not any(os.get_inheritable(f) for f in fds)
        for received in fds:
            os.close(received)


def test_the_end_is_empty() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        ours.close()
        assert unix.recv_message(theirs) == (b"", [])


def test_a_packet_that_is_cut_is_an_error_and_leaks_nothing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        unix.send_message(ours, b"x" * 100, [0])
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ValueError, match="more than 10 bytes"):
            unix.recv_message(theirs, max_bytes=10)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_sealed_file_cannot_be_changed() -> None:
    fd = unix.sealed_memfd("plan", b"content")
    try:
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
    finally:
        os.close(fd)


def test_the_peer_is_known() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert unix.peer(ours) == (os.getpid(), os.getuid(), os.getgid())


def test_only_one_sender_is_heard() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        unix.tell_senders(ours.fileno())
        ours.setblocking(False)
        for packet, fds in ((b"", ()), (b"no", (0,)), (b"much too long", ()), (b"many", (0, 1, 2))):
            if (pid := os.fork()) == 0:
                unix.send_message(theirs, packet, fds)
                os._exit(0)
            os.waitpid(pid, 0)
        unix.send_message(theirs, b"yes", [0])
        before = len(os.listdir("/proc/self/fd"))
        data, fds = unix.recv_from(ours, os.getpid(), 4, 1)
        assert (data, len(fds)) == (b"yes", 1)
        os.close(fds[0])
        assert len(os.listdir("/proc/self/fd")) == before

        unix.send_message(theirs, b"much too long", [0])
        with pytest.raises(ValueError, match="more than 4 bytes"):
            unix.recv_from(ours, os.getpid(), 4, 1)
        with pytest.raises(BlockingIOError):
            unix.recv_from(ours, os.getpid(), 4, 1)
        theirs.close()
        assert unix.recv_from(ours, os.getpid(), 4, 1) == (b"", [])
