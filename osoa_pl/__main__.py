"""`python -m osoa_pl` is `osoa`."""

from osoa_pl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
