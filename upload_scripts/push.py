"""Push a built folder to the Hub, in one commit; run it again to finish what was interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from moee_hf.publishing import files_to_push, push, table_of_files


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="made by build.py")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="list the files and their sizes, and push nothing")
    arguments = parser.parse_args(argv)
    try:
        if arguments.dry_run:
            print("\n".join(table_of_files(files_to_push(arguments.folder))))
            return 0
        commit = push(arguments.folder, private=arguments.private or None)
    except (OSError, ValueError) as error:
        print(f"push: {error}", file=sys.stderr)
        return 1
    print(commit.commit_url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
