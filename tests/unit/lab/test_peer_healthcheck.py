from __future__ import annotations

from lab.peer_healthcheck import process_section, replaced

CONF = """\
# head
process anycast {
    run /usr/bin/anycast announce;
    encoder json;
}

neighbor 10.2.1.254 {
    api { processes [ anycast ]; neighbor-changes; signal; }
}
"""


def test_the_script_takes_the_place_of_the_plugin_in_the_same_sessions() -> None:
    section = process_section("/bin/healthcheck", "/run/check", "/run/disable")
    assert replaced(CONF, section) == (
        "# head\nprocess anycast {\n    run /bin/healthcheck --interval 1 --fast-interval 0.2 --rise 2 --fall 3 "
        "--timeout 1 --withdraw-on-down --no-ip-setup --no-syslog --ip 192.0.2.1/32 --ip 2001:db8:99::1/128 "
        "--disable /run/disable --command /run/check;\n    encoder text;\n}\n\n"
        "neighbor 10.2.1.254 {\n    api { processes [ anycast ]; }\n}\n"
    )
