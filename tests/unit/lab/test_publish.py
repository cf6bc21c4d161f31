from __future__ import annotations

from lab import publish


def test_pages_are_on_loopback_only_and_two_labs_get_different_ports() -> None:
    labs = [publish.listeners(["lb1", "lb2"]) for _ in range(2)]
    try:
        names = [sock.getsockname() for lab in labs for sock in lab.values()]
        assert {address for address, _ in names} == {"127.0.0.1"}
        assert len({port for _, port in names}) == 4
        port = labs[1]["lb2"].getsockname()[1]
        assert publish.addresses(labs[1])["lb2"] == f"http://127.0.0.1:{port}/"
    finally:
        for lab in labs:
            for sock in lab.values():
                sock.close()
