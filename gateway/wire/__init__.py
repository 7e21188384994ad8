"""HTTP/1.1 and HTTP/2, server and client side. See README.md for how a byte travels."""
