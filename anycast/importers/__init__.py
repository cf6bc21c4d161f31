"""Configurations of other programs, made ours: text, then what it means (`model`), then YAML a person would write.

Each source has a package with its tokenizer and its translation. Nothing here writes a file or asks the kernel.
"""
