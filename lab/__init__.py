"""A whole anycast site on one machine: topology, kernel to run it in, real servers, load and fault control.

Not part of the package: run it from a checkout with `python -m lab`.
"""
