"""Makes the modules beside the tests importable: models and a reference that tests share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
