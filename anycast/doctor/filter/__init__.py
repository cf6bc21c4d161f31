"""The packet filter of a node: its rules as values (`rules`), read from what nft (`nft`) and iptables-save (`iptables`)
say, and what becomes of a packet (`walk`). Pure.

Whatever a rule asks that is not known here makes it a rule that may apply or not.
"""
