import sys

from anycast.fleet.main import main

sys.exit(main(sys.argv[1:]))
