"""anycast-healthchecker: INI files with a section for each service that the node itself serves."""
