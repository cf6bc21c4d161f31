"""Carrying out one run of a hook: a program, or a request. What is delivered and when is decided elsewhere."""
