"""Which keywords keepalived knows in which block, up to release 2.4. What is not here it only logs."""

from __future__ import annotations

from anycast.importers.keepalived.language import ANY, LEAF, Grammar


def _leaves(words: str) -> dict[str, Grammar | str]:
    return dict.fromkeys(words.split(), LEAF)


def _any(words: str) -> dict[str, Grammar | str]:
    return dict.fromkeys(words.split(), ANY)


_CONNECTION = "connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark"
_TIMING = "retry delay_before_retry warmup delay_loop alpha log_all_failures"
_URL: Grammar = _leaves(
    "path digest status_code virtualhost regex regex_no_match regex_options regex_min_offset regex_max_offset "
    "regex_stack tls_compliant"
)
_HTTP: Grammar = {
    **_leaves(
        f"{_CONNECTION} {_TIMING} nb_get_retry virtualhost http_protocol enable_sni sni_name fast_recovery"
    ),
    **_leaves("tls_compliant"),
    "url": _URL,
}

CHECKERS: dict[str, Grammar | str] = {
    "TCP_CHECK": _leaves(f"{_CONNECTION} {_TIMING}"),
    "HTTP_GET": _HTTP,
    "SSL_GET": _HTTP,
    "SMTP_CHECK": {**_leaves(f"{_CONNECTION} {_TIMING} helo_name"), "host": _leaves(_CONNECTION)},
    "DNS_CHECK": _leaves(f"{_CONNECTION} {_TIMING} type name"),
    "MISC_CHECK": _leaves(f"{_TIMING} misc_path misc_timeout misc_dynamic user"),
    "UDP_CHECK": _leaves(f"{_CONNECTION} {_TIMING} payload require_reply min_reply_length max_reply_length"),
    "PING_CHECK": _leaves(f"{_CONNECTION} {_TIMING}"),
    "FILE_CHECK": _leaves("track_file weight"),
    "BFD_CHECK": _leaves("name alpha"),
}

_REAL_SERVER: Grammar = {
    **_leaves(
        "weight lvs_method uthreshold lthreshold inhibit_on_failure notify_up notify_down alpha retry "
        "delay_before_retry warmup connect_timeout delay_loop smtp_alert virtualhost snmp_name"
    ),
    **CHECKERS,
}
_VIRTUAL_SERVER: Grammar = {
    **_leaves(
        "ip_family retry delay_before_retry warmup connect_timeout delay_loop inhibit_on_failure lb_algo lvs_sched "
        "hashed ops flag-1 flag-2 flag-3 sh-port sh-fallback mh-port mh-fallback lb_kind lvs_method "
        "persistence_engine persistence_timeout persistence_granularity protocol ha_suspend smtp_alert virtualhost "
        "snmp_name alpha omega quorum_up quorum_down quorum hysteresis weight sorry_server sorry_server_inhibit "
        "sorry_server_lvs_method"
    ),
    "real_server": _REAL_SERVER,
}

ROOT: Grammar = {
    "virtual_server": _VIRTUAL_SERVER,
    "virtual_server_group": ANY,
    **_any(
        "global_defs vrrp_instance vrrp_script vrrp_sync_group vrrp_track_process vrrp_track_file track_file "
        "static_ipaddress static_routes static_rules track_group garp_group bfd_instance SSL interface_up_down_delays "
        "vrrp_virtual_iproute"
    ),
    **_leaves(
        "net_namespace net_namespace_ipvs namespace_with_ipsets instance use_pid_dir linkbeat_use_polling child_wait_time "
        "process_names config_copy_directory"
    ),
}
