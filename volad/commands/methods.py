"""List the methods, or show one's documentation."""

from __future__ import annotations

import argparse

from volad import methods

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    parser.add_argument("name", nargs="?", help="a method, for its documentation")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    if args.name:
        print(methods.documentation(args.name))
        return 0
    width = max(len(name) for name in methods.names())
    for name in methods.names():
        print(f"{name:{width}}  {methods.summary(name)}")
    return 0
