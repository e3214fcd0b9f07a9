"""The rendered project beside its peers: see README.md."""
