"""What is known about a model: metrics, evaluation, samples and brains, generation, anomalies."""

import os

# Before matplotlib is imported. A notebook names a backend that need not exist here, and the user's
# own settings may be damaged.
os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
