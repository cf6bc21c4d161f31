"""`python -m anycast`."""

import sys

from anycast.cli.main import main

sys.exit(main())
