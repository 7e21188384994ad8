"""The nouns: frozen values with no behaviour beyond what makes them valid. Stdlib only."""
