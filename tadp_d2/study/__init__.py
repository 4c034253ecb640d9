"""Questions that the built-in world answers, with several seeds each."""
