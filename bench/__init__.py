"""The benchmark with everything that needs the repository: `python -m bench`."""
