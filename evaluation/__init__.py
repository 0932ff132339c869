"""What is known about a model: metrics, evaluation, samples and brains, generation, anomalies."""
