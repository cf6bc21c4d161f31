"""Tripwires: one connection that stays open to each real server, and tells at once when it ends.

`wires` has the connections, `manner` what is known of how a server treats those that say nothing.
"""
