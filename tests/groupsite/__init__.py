"""A site of rooms for the tests of groups, served by the rendered project."""
