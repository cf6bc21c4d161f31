"""exabgp.conf of releases 3.4, 4 and 5: neighbors, and healthcheck processes with the VIPs that they announce."""
