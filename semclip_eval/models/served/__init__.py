"""Models behind an endpoint, on a server of their own."""
