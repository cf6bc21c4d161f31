"""The node's kernel: IPVS over netlink, VIP addresses, sysctls, link events. Reads and writes, decides nothing."""
