"""`python -P -m pointsman.cli`: how the processes start each other."""

import sys

from pointsman.cli.main import main

sys.exit(main())
