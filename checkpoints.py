"""Models and training state on disk: written whole or not at all, read without trust.

    python checkpoints.py RUN OUT     what predict.py needs of a finished run, small enough to hand on

A model file may come from a stranger. Before Keras builds anything from it, its settings are checked to be plain numbers
and names of one of our two models, and to claim no more memory than the file itself holds weights for.
"""

import hashlib
import io
import json
import pathlib
import shutil
import zipfile
import zlib

import numpy as np

from utils import InputError, Parser, command_line, import_tensorflow, read_config, replacing

MODELS = {"vqvae": "VQVAE", "draft": "PixelCNN", "prior": "PixelCNN"}  # by file name
LARGEST_FILE = 2**30  # bytes, unpacked
LARGEST_GRID = 512  # codes a side: the largest images there are, at 4 pixels a code
POLICIES = ("float32", "mixed_bfloat16")
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def fingerprint(model):
    """Digest of a model's weights: a prior carries that of the VQ-VAE whose codes it knows."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()[:16]


def save_model(model, path):
    """Write a model without its optimizer, whose state is twice the size of the weights."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    with replacing(path) as temporary:
        copy.save(temporary)


def load_model(path):
    """Model of `vqvae.keras`, `draft.keras` or `prior.keras`, not compiled.

    Raises:
        InputError: the file is missing, damaged, too large, or holds anything but the model its name says.
    """
    import keras

    import modules  # noqa: F401  registers what a file may name
    import pixelcnn  # noqa: F401

    if not path.is_file():
        raise InputError(f"{path} is not there: let train.py finish this run, or name another --run directory.")
    try:
        _check(path)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except UNREADABLE as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise InputError(f"{path} cannot be loaded ({reason}): the file is damaged or not of this project, train again or restore it.") from None


def load_models(run):
    """VQ-VAE and prior of a run directory.

    Raises:
        InputError: either cannot be loaded, or the prior is of another VQ-VAE.
    """
    vqvae, prior = (load_model(run / f"{stage}.keras") for stage in ("vqvae", "prior"))
    if prior.settings["vqvae"] != fingerprint(vqvae):
        raise InputError(f"{run / 'prior.keras'} was trained on the codes of another VQ-VAE than {run / 'vqvae.keras'}: keep the two of one run together.")
    return vqvae, prior


def _check(path):
    """Raise ValueError unless the archive holds the settings of our own model and the weights that they call for."""
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if sum(sizes.values()) > LARGEST_FILE:
            raise ValueError(f"it unpacks to {sum(sizes.values())} bytes, more than {LARGEST_FILE}")
        if sizes["config.json"] > 2**16:
            raise ValueError("its config.json is too long")
        config = json.loads(archive.read("config.json"))
    name = MODELS[path.stem]
    if (config["class_name"], config["registered_name"], config.get("compile_config") or {}) != (name, f"brain_vqvae>{name}", {}):
        raise ValueError(f"it holds no {name}")
    settings = dict(config["config"])
    dtype = settings.pop("dtype")
    if (dtype["module"], dtype["class_name"]) != ("keras", "DTypePolicy") or dtype["config"] not in [{"name": policy} for policy in POLICIES]:
        raise ValueError("its dtype policy is none of " + ", ".join(POLICIES))
    numbers = {key: value for key, value in settings.items() if not isinstance(value, (str, bool))}
    for key, value in numbers.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, (int, float)) and 0 <= v < 2**31 for v in values):
            raise ValueError(f"its setting {key} is no number or out of range")
    # numbers of weights that are surely there, and what they are multiples of
    width, codebook_size = settings["width"], settings["codebook_size"]
    if name == "PixelCNN":
        side, blocks = settings["grid"], settings["blocks"]
        tables = codebook_size * width + settings["levels"] * 4 * blocks * width + side**2 * width
    else:
        side, blocks = settings["image_size"] // max(1, settings.get("reduction", 8)), sum(settings["encoder_blocks"]) + sum(settings["decoder_blocks"])
        tables = codebook_size * settings["code_dim"]
    # 2 bytes a weight, as in what `export` wrote
    if side > LARGEST_GRID or blocks > 256 or 2 * (width**2 * max(1, blocks) + tables) > sizes["model.weights.h5"]:
        raise ValueError("its settings claim more than its weights fill")


def _variables(model):
    """Everything that a step of training changes: weights, random generators, metrics, optimizer; each once, in a fixed order."""
    found = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def save_state(model, path, write=True):
    """Write all that a compiled model's training would need to go on, bit for bit.

    On several machines all of them must call it, because metrics are summed up over them; one should `write`.

    Raises:
        FloatingPointError: something in it is not finite, and what `path` held before is kept.
    """
    arrays = [np.asarray(variable) for variable in _variables(model)]
    if not all(np.isfinite(array).all() for array in arrays):
        raise FloatingPointError("the weights are not finite")
    if not write:
        return
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, *arrays)


def load_state(model, path):
    """Bring back what `save_state` wrote, into a model built and compiled alike.

    Raises:
        InputError: the file is damaged or of another model.
    """
    variables = _variables(model)
    again = f"remove it and {path.stem}_history.csv to begin this stage again."
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in file.files]
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read ({error}): {again}") from None
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise InputError(f"{path} is of another model: {again}")
    for variable, array in zip(variables, arrays):
        variable.assign(array)


def export(run, out):
    """Copy what predict.py needs of a finished run. The prior's weights are written in half precision, which costs it no measurable
    likelihood; those of the VQ-VAE are kept, because the prior knows it by their digest.

    Raises:
        InputError: the run is not finished, its models do not belong together, or `out` exists.
    """
    read_config(run)
    load_models(run)
    names = ("config.json", "vqvae.keras", "code_counts.npz", "vqvae_history.csv", "prior_history.csv")
    missing = [name for name in names if not (run / name).is_file()]
    if missing or (run / "resume" / "prior.npz").exists():
        raise InputError(f"{run} is not finished{': it lacks ' * bool(missing)}{', '.join(missing)}. Repeat the train.py command that began it.")
    if out.exists():
        raise InputError(f"{out} exists: name a folder that does not.")
    out.mkdir(parents=True)
    for name in names:
        shutil.copyfile(run / name, out / name)
    with zipfile.ZipFile(run / "prior.keras") as whole, replacing(out / "prior.keras") as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as half:
        for name in whole.namelist():
            content = whole.read(name)
            half.writestr(name, _in_half_precision(content) if name.endswith(".h5") else content)


def _in_half_precision(content):
    """Bytes of an HDF5 file with its float32 arrays as float16."""
    import h5py

    written = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as whole, h5py.File(written, "w") as half:
        def copy(name, item):
            if isinstance(item, h5py.Group):
                target = half.require_group(name)
            else:
                target = half.create_dataset(name, data=item[()].astype("float16") if item.dtype == np.float32 else item[()])
            for key, value in item.attrs.items():
                target.attrs[key] = value

        whole.visititems(copy)
        for key, value in whole.attrs.items():
            half.attrs[key] = value
    return written.getvalue()


def main(args):
    import_tensorflow()
    export(args.run, args.out)
    sizes = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {sizes / 2**20:.1f} MiB. Next: python predict.py --run {args.out} --data DIR")


if __name__ == "__main__":
    parser = Parser(__doc__)
    parser.add_argument("run", metavar="RUN", type=pathlib.Path, help="finished run directory")
    parser.add_argument("out", metavar="OUT", type=pathlib.Path, help="folder to make")
    command_line(main, parser.parse_args())
