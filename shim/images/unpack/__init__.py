"""From a compressed layer to a directory that overlayfs can use as a lower.

What is here runs in worker processes of its own (``worker``), started as fresh interpreters: it imports no
asyncio, no HTTP and no gRPC, and handles what somebody hostile may have written.
"""
