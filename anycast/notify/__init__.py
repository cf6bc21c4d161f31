"""Carrying out one run of a hook: a program, or a request. What is told and when is decided elsewhere."""
