"""The announcer: makes routes in a table of the kernel equal to the current lease, for a routing daemon to learn. Standard library only."""
