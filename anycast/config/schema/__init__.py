"""The file format, as pydantic models, which are the reference; their JSON Schema is for editors.

Import it lazily: pydantic costs a tenth of a second. Nothing here looks at two values at once; what is
required, and what must fit together, is judged in `assemble`, so that one mistake hides no other.

`scalars` has single values, `part` makes mappings of what classes of the core describe, `checks` has the kinds of
checks, `file` everything else, `json_schema` what editors get.
"""

from anycast.config.schema.checks import (
    CHECK_TYPES,
    CHECKS,
    AllCheck,
    AnyCheck,
    AtLeastCheck,
    BgpCheck,
    Check,
    CheckReference,
    Member,
)
from anycast.config.schema.file import (
    Bfd,
    Bgp,
    ConnectionSync,
    File,
    Hook,
    Neighbor,
    Node,
    Persistence,
    Pool,
    Quorum,
    Server,
    Service,
    Serving,
    Timeouts,
    Timing,
    Tunnel,
    Vip,
)
from anycast.config.schema.json_schema import keys_at, schema_text
from anycast.config.schema.part import Part
from anycast.config.schema.scalars import NAME, NAME_ADVICE

__all__ = [
    "CHECKS",
    "CHECK_TYPES",
    "NAME",
    "NAME_ADVICE",
    "AllCheck",
    "AnyCheck",
    "AtLeastCheck",
    "Bfd",
    "Bgp",
    "BgpCheck",
    "Check",
    "CheckReference",
    "ConnectionSync",
    "File",
    "Hook",
    "Member",
    "Neighbor",
    "Node",
    "Part",
    "Persistence",
    "Pool",
    "Quorum",
    "Server",
    "Service",
    "Serving",
    "Timeouts",
    "Timing",
    "Tunnel",
    "Vip",
    "keys_at",
    "schema_text",
]
