"""Types and ranges of the settings of networks, for model files that may come from a stranger."""

SIDE, EDGE = (int, 4, 2048), (int, 0, 2048)
CODEBOOK_SIZE, WIDTH = (int, 2, 2**16), (int, 2, 1024)
NUMBER_OF_BLOCKS = (int, 0, 64)
SIDE_OF_GRID = (int, 1, 512)
