"""``python -m smcssm``: the command line."""

from smcssm.cli import main

if __name__ == "__main__":
    main()
