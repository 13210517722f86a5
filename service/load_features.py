"""`python -m service.load_features`: fill a feature store; `service.features.load` has the details."""

import sys

from service.features.load import main

if __name__ == "__main__":
    sys.exit(main())
