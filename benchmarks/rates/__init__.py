"""Bytes of real files, of models and of image codecs, and what they take at equal quality."""
