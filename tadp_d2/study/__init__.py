"""Questions that the synthetic data sets answer, with several seeds each."""
