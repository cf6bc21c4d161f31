"""YAML text to a valid `anycast.core.values.configuration.Config`, or every problem at once."""
