"""Copy of a finished run that is small enough to hand on.

python -m fitting.export RUN OUT     what predict.py needs of the run RUN, into the folder OUT
"""

import io
import pathlib
import shutil
import zipfile

import h5py

from fitting.run_directory import RunDirectory, read_config
from utils import InputError, Parser, command_line, import_tensorflow, replacing


def export(run: RunDirectory, out: pathlib.Path) -> None:
    """Copy what predict.py needs of a finished run.

    The weights of prior and texture are written in half precision, which costs no measurable
    likelihood. Those of the VQ-VAE are kept, because the others know it by their digest.

    Raises:
        InputError: The run is not finished, its models do not belong together, or `out` exists.
    """
    # It imports TensorFlow, which --help need not wait for.
    from fitting.checkpoints import load_models  # noqa: PLC0415

    load_models(run)
    histories = [run.history(stage) for stage in ("vqvae", "prior")]
    files = [run.config, run.model("vqvae"), run.code_counts, *histories]
    missing = [file.name for file in files if not file.is_file()]
    halved = [stage for stage in ("prior", "texture") if run.model(stage).is_file()]
    if missing or any(run.state(stage).exists() for stage in halved):
        lacks = f": it lacks {', '.join(missing)}" if missing else ""
        raise InputError(
            f"{run} is not finished{lacks}. Repeat the train.py command that began it."
        )
    if out.exists():
        raise InputError(f"{out} exists: name a folder that does not.")
    out.mkdir(parents=True)
    for file in filter(pathlib.Path.is_file, [*files, run.calibration, run.thresholds]):
        shutil.copyfile(file, out / file.name)
    for stage in halved:
        _write_half_precision(run.model(stage), RunDirectory(out).model(stage))


def _write_half_precision(path, copy):
    """Copy a model file with its float32 weights as float16."""
    with (
        zipfile.ZipFile(path) as whole,
        replacing(copy) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as half,
    ):
        for name in whole.namelist():
            content = whole.read(name)
            half.writestr(name, _halved(content) if name.endswith(".h5") else content)


def _halved(content):
    written = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as whole, h5py.File(written, "w") as half:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                target = half.require_group(name)
            else:
                dtype = "float16" if item.dtype == "float32" else item.dtype
                target = half.create_dataset(name, data=item[()], dtype=dtype)
            target.attrs.update(item.attrs)

        half.attrs.update(whole.attrs)
        whole.visititems(copy)
    return written.getvalue()


def main(args) -> None:
    """Run the command."""
    read_config(args.run)
    import_tensorflow()
    export(args.run, args.out)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(
        f"{args.out}: {size / 2**20:.1f} MiB. Next: python predict.py --run {args.out} --data DIR"
    )


def parse(arguments=None):
    """Flags of the command."""
    parser = Parser(__doc__)
    parser.add_argument("run", metavar="RUN", type=RunDirectory, help="finished run directory")
    parser.add_argument("out", metavar="OUT", type=pathlib.Path, help="folder to make")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    command_line(main, parse())
