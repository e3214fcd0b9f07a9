"""A site of mistakes that newcomers make, served by the rendered project."""
