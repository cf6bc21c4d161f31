"""Configuration files for the daemons around anycast, written from the same YAML."""
