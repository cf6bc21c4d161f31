"""The process that asks the other nodes of a fleet, so that the agent need not: it tells the agent what it hears, one way.

It has no rights, and a low priority. What it says is bounded and looked at: it reads what strangers send.
"""
