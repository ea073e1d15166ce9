"""For all tests: this process forks, and its children must be what they were forked as."""

import os

# With it gRPC starts threads in a forked child, which may then enter no user namespace, and keeps fds.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
