"""In the lab's programs there is no rich, as there is none in the package: structlog would import it wherever it is."""

raise ImportError("not in the lab")
