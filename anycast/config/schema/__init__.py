"""The file format, as pydantic models, which are the reference; their JSON Schema is for editors.

Import it lazily: pydantic costs a tenth of a second. Nothing here looks at two values at once; what is
required, and what must fit together, is judged in `assemble`, so that one mistake hides no other.

`scalars` has single values, `part` makes mappings of what classes of the core describe, `checks` has the kinds of
checks, `file` everything else, `json_schema` what editors get.
"""
