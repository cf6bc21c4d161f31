"""The plugin's connection to the agent."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from anycast.plugin import link


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be refused")
def test_a_socket_that_this_user_may_not_open_is_known() -> None:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    path = directory / "lease.sock"
    agent = link.AgentLink(str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        assert not agent.connect(0.0)
        assert not agent.forbidden
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            assert not agent.connect(1.0)
            assert agent.forbidden
        finally:
            os.seteuid(0)
        assert agent.connect(2.0)
        assert not agent.forbidden
    agent.close()
    shutil.rmtree(directory)
