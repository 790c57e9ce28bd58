"""``python -m countersign_storage``."""

import sys

from countersign_storage.main import main

if __name__ == "__main__":
    sys.exit(main())
