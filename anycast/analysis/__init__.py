"""Figures for operators, worked out from a configuration. Nothing that `step` needs."""
