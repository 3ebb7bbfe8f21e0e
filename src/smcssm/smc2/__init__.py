"""SMC²: a population over hyperparameters, each particle with an inner filter."""
