"""YAML text to a valid `anycast.core.model.Config`, or every problem at once."""
