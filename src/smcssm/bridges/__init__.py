"""Between smcssm and PyMC: the marginal likelihood as a PyTensor Op, models from a ``pm.Model``, warm starts."""
