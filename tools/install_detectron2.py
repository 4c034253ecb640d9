#!/usr/bin/env python
"""Installs Detectron2 where none is: `python -m tadp_d2.install_detectron2` of this checkout."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tadp_d2.install_detectron2 import main

if __name__ == "__main__":
    sys.exit(main())
