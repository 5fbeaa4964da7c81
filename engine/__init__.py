"""The fast forms of what the files of the root define: same results, tested equal."""
