"""``python -m gpushare``: the command."""

import sys

from gpushare._command import main

if __name__ == "__main__":
    sys.exit(main())
