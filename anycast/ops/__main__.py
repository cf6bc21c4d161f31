"""`python -m anycast.ops`: for the agent to start."""

import sys

from anycast.ops.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
