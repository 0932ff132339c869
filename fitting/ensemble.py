"""Load the models of one run or of several runs that read the same slices together."""

from collections.abc import Iterable

from fitting.checkpoints import load_models
from fitting.run_directory import RunDirectory
from measures.evaluation import check_levels
from modules import VQVAE
from networks.raster import RasterPrior
from sources.folder import Split
from utils import InputError


def load_ensemble(
    runs: list[RunDirectory], splits: Iterable[Split]
) -> list[tuple[VQVAE, RasterPrior]]:
    """Load the VQ-VAE and the prior of each run.

    Args:
        runs: Run directories, the one of `--run` first.
        splits: Slices that the models will read.

    Raises:
        InputError: A model cannot be loaded, does not know the levels of the splits, or has
            another image size than the first.
    """
    splits = list(splits)
    models = [load_models(run) for run in runs]
    size = models[0][0].settings["image_size"]
    for run, (vqvae, prior) in zip(runs, models):
        for split in splits:
            check_levels(run, prior, split)
        if vqvae.settings["image_size"] != size:
            raise InputError(
                f"--ensemble must be of image size {size}, that of --run. "
                f"Received: {run} of {vqvae.settings['image_size']}"
            )
    return models
