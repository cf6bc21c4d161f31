"""The ExaBGP process plugin: makes ExaBGP's announcements equal to the current lease. Standard library only."""
