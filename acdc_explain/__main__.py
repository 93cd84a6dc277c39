"""`python -m acdc_explain` is `acdc-explain`."""

from .cli import main

main()
