"""``python -m mrx``."""

from mrx.cli import main

if __name__ == "__main__":
    main()
