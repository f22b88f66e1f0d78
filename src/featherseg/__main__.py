"""`python -m featherseg`."""

from featherseg.cli import main

main()
