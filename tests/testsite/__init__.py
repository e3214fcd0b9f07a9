"""A site of sockets for the tests, served by the rendered project."""
