"""`python -m serving.store`: see `serving.store_cli`."""

from serving.store_cli import main

if __name__ == "__main__":
    main()
