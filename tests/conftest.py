"""What all tests share is in `shared.py`, which is loaded where tests run.

The process that hands tests out to the workers of pytest-xdist runs none, and TensorFlow takes
seconds to load.
"""

import gc
import signal


def pytest_configure(config):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    config.option.loadscopereorder = False  # pytest-xdist would begin with the most tests
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        gc.disable()  # until all is loaded, see trainings.py
        config.pluginmanager.import_plugin("shared")
