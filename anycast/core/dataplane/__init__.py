"""The kernel's IPVS services, addresses and sysctls: what is wanted, what is there, the difference."""
