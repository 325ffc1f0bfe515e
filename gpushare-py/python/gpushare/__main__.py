"""``python -m gpushare``: the command."""

import sys

from gpushare._command import main

sys.exit(main())
