"""`python -m rltool` is `rltool`."""

from rltool.cli.main import main

if __name__ == "__main__":
    main()
