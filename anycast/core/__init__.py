"""The pure core: values and decisions. No I/O, no clock, nothing of ours from outside this package."""
