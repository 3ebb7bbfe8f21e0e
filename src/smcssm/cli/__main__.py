"""``python -m smcssm.cli``."""

from smcssm.cli import main

main()
