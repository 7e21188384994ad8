"""Keep replicas running as pods. See README.md.

Nothing here is imported before a gateway is told to use it: a laptop's gateway pays for none of it.
"""
