"""``python -m quire``: the command line without an installed script."""

from quire.cli import main

if __name__ == "__main__":
    main()
