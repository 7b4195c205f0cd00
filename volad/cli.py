"""The `volad` command: a thin door. Every command parses, makes one call, and returns a code.

Exit codes: 0 done; 1 a run-time error that may be worth a retry; 2 wrong arguments; 3 finished, but
some of several scans failed; 4 a scan of another kind than the bundle knows, such as another
contrast, of which no mask was made (--force makes it); 42 an input that can never work; 130 and
143 stopped by Ctrl-C or SIGTERM (--resume goes on).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from volad import __version__, commands
from volad.errors import VoladError
from volad.io.guard import one_line

__all__ = ["main"]

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = _parser().parse_args(argv)
    level = logging.ERROR if args.quiet else logging.INFO if args.verbose else logging.WARNING
    if args.quiet:
        os.environ["TQDM_DISABLE"] = "1"  # before tqdm loads
    logging.basicConfig(level=level, format="volad: %(message)s", stream=sys.stderr, force=True)
    try:
        code: int = args.run(args)
    except VoladError as error:
        print(f"volad: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("volad: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `volad methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="volad",
        description="Find lesions in 3D medical scans without lesion labels. Research software: "
        "not a medical device, not for diagnosis or treatment.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"volad {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="only errors on stderr")
    common.add_argument("-v", "--verbose", action="store_true", help="more on stderr")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    for name in commands.NAMES:
        command = commands.load(name)
        about = (command.__doc__ or "").partition("\n")[0]
        parser = subparsers.add_parser(name, parents=[common], help=about, description=about)
        parser.set_defaults(run=command.run)
        command.add_arguments(parser)
    return top
