"""A client that sends more input than anybody takes, by WebSocket, and says so; run as a program."""

import socket
import sys
import time
from urllib.parse import urlsplit

parts = urlsplit(sys.argv[1])
sock = socket.create_connection((parts.hostname, parts.port))
sock.sendall(
    f"GET {parts.path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n".encode()
)
sock.recv(65536)
sock.settimeout(1)
frame = b"\x82\xfe\x10\x01\0\0\0\0\0" + bytes(4096)
try:
    while True:
        sock.sendall(frame * 64)
except TimeoutError:
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        pass
    sys.stdout.write("full\n")
    sys.stdout.flush()
time.sleep(60)
