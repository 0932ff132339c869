"""Files that hold slices: an entropy coder that asks the prior, and the bytes of a file."""
