"""The command line: standard library only, one module per group of verbs."""
