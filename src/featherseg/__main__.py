"""`python -m featherseg`."""

from featherseg.cli import main

if __name__ == "__main__":
    main()
