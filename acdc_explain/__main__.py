"""`python -m acdc_explain` is `acdc-explain`."""

from .cli.main import main

main()
