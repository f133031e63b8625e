"""`python -m cluster.jobs` that knows the kinds of the tests too."""

import sys

from cluster.jobs.__main__ import main
from tests.job_kinds import register_kinds

if __name__ == "__main__":
    register_kinds()
    sys.exit(main())
