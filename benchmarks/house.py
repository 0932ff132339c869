"""Open the repository to a benchmark. Every benchmark imports this module before all rooms.

It puts the root of the repository on the path and loads TensorFlow without its start-up notes.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# isort: split
from utils import import_tensorflow  # noqa: E402  the path must hold it first

# `startup.py` measures how train.py loads TensorFlow, so its processes must begin without it.
if pathlib.Path(sys.argv[0]).name != "startup.py":
    import_tensorflow()
