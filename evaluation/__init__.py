"""What is known about a model: metrics, evaluation, samples and brains, generation, anomalies."""

import os

# Before matplotlib is imported: a notebook's backend need not exist here.
os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
