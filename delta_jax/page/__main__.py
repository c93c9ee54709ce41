"""Writes the page of a sweep, a run or several runs: python -m delta_jax.page FOLDER [--output FILE]."""

import argparse
import sys
from pathlib import Path

from delta_jax import page


def main() -> None:
    """Parses the command line and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m delta_jax.page", description=__doc__.partition(":")[0] + ".")
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="of a sweep, the workdir of a run, or a folder of workdirs"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"where to write; FOLDER/{page.PAGE} if not given")
    given = parser.parse_args()
    try:
        print(page.write(given.folder, given.output))
    except (page.PageError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
