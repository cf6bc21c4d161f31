"""Checks that take the way of a client's packet: to the VIP's address at one real server, by the link or by the tunnel.

The VIP is an address of this node too, so no socket of the kernel's would send there, and what the real server answers
comes from an address of ours: IP drops it (IPv4: a martian) or resets it (IPv6: to ourselves). So packets are written
here, wrapped as IPVS wraps them, and answers are read by a packet socket before IP sees them. There is no device, no
route, no rule, no mark and no service of IPVS: nothing is left behind, however the agent ends.
"""
