"""keepalived.conf: virtual servers, groups, checkers, and what VRRP says of addresses and roles."""
