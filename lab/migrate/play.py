"""One way, there and back, in a site of its own."""

from __future__ import annotations

from typing import Any

from lab.control import Lab
from lab.migrate import healthcheck, pair
from lab.migrate.story import document, played, steps_table
from lab.topology import topology
from lab.trial import NOT_DONE

NEW = 5.0  # connections a second


def play(name: str, connections: int, new: float = NEW) -> dict[str, Any]:
    """Its steps and transcript. Raises LabError, TimeoutError."""
    way: Any = (pair.WAYS | healthcheck.WAYS)[name]
    story_of: Any = pair if name in pair.WAYS else healthcheck
    with Lab(topology(servers=story_of.SERVERS)) as lab:
        try:
            story_of.build(lab, way)
            with played(lab, connections, new) as story:
                move = story_of.Move(story, way)
                move.there()
                move.back()
                print(f"\n{way.words}\n{steps_table(story.steps)}", flush=True)
                return {"words": way.words, "steps": document(story.steps), "lines": story.lines}
        except NOT_DONE:
            for log in sorted(lab.run.glob("lb*/*.log")):
                print(f"{log}:\n{log.read_text()[-2000:]}", flush=True)
            raise
        finally:
            lab.down()
