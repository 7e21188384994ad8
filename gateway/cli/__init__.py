"""The `gateway` command: a client of the control API, and the way to start a gateway."""
