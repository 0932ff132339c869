"""Lesions with known masks, planted in slices and in stacks of slices."""
