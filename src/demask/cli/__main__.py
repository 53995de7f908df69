"""`python -m demask.cli` is `demask`."""

from demask.cli import main

main()
