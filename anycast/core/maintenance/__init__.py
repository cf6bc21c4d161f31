"""Maintenance: its stages, its end, and what moves it on."""
