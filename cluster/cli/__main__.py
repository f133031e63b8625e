"""`python -m cluster.cli`: the command line where the console script is not on the PATH."""

from cluster.cli.run import main

main()
