"""What opens host ports where the kernel cannot."""

import pytest

from shim.errors import FailedPrecondition
from shim.network.port_mappings import PortEntry
from shim.network.port_tables import NoPorts

WEB = PortEntry("TCP", "", 8080, "10.88.0.7", 80)


def test_no_nftables_means_no_ports_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    ports = NoPorts("no nftables")
    ports.add([])
    with pytest.raises(FailedPrecondition, match="host port 8080/TCP cannot be opened: no nftables"):
        ports.add([WEB])
    ports.remove([WEB])
    ports.rebuild([WEB])
    assert caplog.messages == ["host port 8080/TCP leads nowhere: no nftables"]
    assert ports.exists()
