"""What a command that takes long says meanwhile, on the standard error stream."""

import sys


def progress(text):
    print(f"... {text}", file=sys.stderr, flush=True)
