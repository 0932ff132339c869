"""What is known about a model: metrics, evaluation, generation, anomalies, report, figures."""
