"""`python -m exai` is `exai`."""

from exai.cli.app import main

main()
