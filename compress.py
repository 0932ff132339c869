"""Compress slices to one small file with a trained VQ-VAE and its prior, and restore them.

python compress.py encode FOLDER OUT.bvq --run RUN     slices as PNGs, or one NIfTI volume
python compress.py decode IN.bvq FOLDER --run RUN      as PNGs, or OUT.nii.gz for a volume

The slices come back as the models see them, not as they were: this is no archive. The models know
slices like those of their training. At a high rate weight, what is rare gives way to what is usual;
--rate-weight 0 keeps most.
"""

import pathlib
import tempfile

from fitting.run_directory import RunDirectory, read_config
from sources.facts import facts_of_run
from sources.layout import slice_name
from sources.scans import open_scan
from utils import InputError, Parser, between, command_line, import_tensorflow, replacing

MAX_FILE_BYTES = 2**28
VOLUME = ".nii.gz"


def parse(arguments=None):
    """Flags of the script."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="encode|decode")
    encoding = commands.add_parser("encode", help="write slices as one file")
    encoding.add_argument("source", metavar="FOLDER", help="folder of slices, or a NIfTI volume")
    encoding.add_argument("target", metavar="OUT", type=pathlib.Path, help="file to write")
    encoding.add_argument(
        "--rate-weight",
        type=between(float, 0, 1e6),
        metavar="L",
        help="price of one bit when codes are chosen (default: that of the training)",
    )
    axcodes = "where the axes of a volume run to that does not say it, such as RAS"
    encoding.add_argument("--axcodes", metavar="XYZ", help=axcodes)
    decoding = commands.add_parser("decode", help="restore the slices of a file as PNGs")
    decoding.add_argument("source", metavar="IN", type=pathlib.Path, help="file to read")
    target = "new folder, or NIfTI volume (.nii.gz) of a single case"
    decoding.add_argument("target", metavar="FOLDER", type=pathlib.Path, help=target)
    for command in (encoding, decoding):
        command.add_argument("--run", metavar="DIR", required=True, help="run of train.py")
    return parser.parse_args(arguments)


def main(args):
    """Encode or decode."""
    run = RunDirectory(args.run)
    facts = facts_of_run(read_config(run)["data"])
    if args.command == "encode":
        encode(run, open_checked(args, facts), args)
    else:
        decode(run, read(args.source), args)


def load(run):
    """Load TensorFlow, which takes seconds, and the models of a run."""
    import_tensorflow()
    from coding.slices import Codec  # noqa: PLC0415

    return Codec(run)


def open_checked(args, facts):
    """The slices of a folder, or those that a volume is cut into, if they come back so named."""
    split = open_scan(args.source, facts, args.axcodes)
    for path, case, level in zip(split.paths, split.cases, split.levels):
        if pathlib.Path(path).name != slice_name(case, level):
            raise InputError(f"{path} would come back as {slice_name(case, level)}: rename it.")
    return split


def encode(run, split, args):
    """Write the slices of a split as one file, once it was decoded again."""
    codec = load(run)
    codec.warn(split)
    content = codec.encode(split, args.rate_weight)
    with replacing(args.target) as temporary:
        temporary.write_bytes(content)
    size, pixels = len(content), len(split) * codec.vqvae.settings["image_size"] ** 2
    print(
        f"{args.target}: {len(split)} slices in {size} bytes, {size / len(split):.1f} a slice, "
        f"{8 * size / pixels:.4f} bits a pixel. It was decoded again, and gives the same codes."
    )


def decode(run, content, args):
    """Restore the slices of a file into a folder, all of them or none."""
    if args.target.exists() and (not args.target.is_dir() or any(args.target.iterdir())):
        raise InputError(f"{args.target} is not empty: name a new folder.")
    codec = load(run)
    split, codes = codec.decode(content, str(args.source))
    if args.target.name.endswith(VOLUME):
        if len(set(split.cases.tolist())) > 1:
            raise InputError(f"{args.source} holds several cases: name a new folder, no volume.")
        codec.write_volume(args.target, split, codes)
        print(f"{args.target}: a volume of {len(split)} slices restored.")
        return
    args.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.target.parent, prefix=".") as staging:
        folder = pathlib.Path(staging, "slices")
        codec.write(folder, split, codes)
        folder.replace(args.target)
    print(f"{args.target}: {len(split)} slices restored.")


def read(path):
    """Bytes of a file that is no larger than any of ours could be."""
    if not path.is_file():
        raise InputError(f"{path} is not there: name a file that compress.py encode wrote.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path} is larger than any .bvq file: name another.")
    return path.read_bytes()


if __name__ == "__main__":
    command_line(main, parse())
