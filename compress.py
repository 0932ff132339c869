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
from sources.volumes import axcodes
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
    encoding.add_argument(
        "--given",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        help="who is shown, by attributes that the prior knows; the file holds it "
        "(default: unknown)",
    )
    runs_to = "where the axes of a volume run to that does not say it, such as RAS"
    encoding.add_argument("--axcodes", type=axcodes, metavar="XYZ", help=runs_to)
    decoding = commands.add_parser("decode", help="restore the slices of a file as PNGs")
    decoding.add_argument("source", metavar="IN", type=pathlib.Path, help="file to read")
    target = "new folder, or NIfTI volume (.nii.gz) of a single case"
    decoding.add_argument("target", metavar="FOLDER", type=pathlib.Path, help=target)
    for command in (encoding, decoding):
        command.add_argument(
            "--run", metavar="DIR", type=RunDirectory, required=True, help="run of train.py"
        )
    return parser.parse_args(arguments)


def main(args):
    """Encode or decode."""
    facts = facts_of_run(read_config(args.run)["data"])
    if args.command == "encode":
        split = open_scan(args.source, facts, args.axcodes)
        check_names(split)
    else:
        content = read(args.source, args.target)
    import_tensorflow()  # takes seconds, so only now that all flags and files are checked
    from coding.slices import Codec  # noqa: PLC0415
    from evaluation.attributes import read_given  # noqa: PLC0415

    codec = Codec(args.run)
    if args.command == "encode":
        given = read_given(args.run, codec.prior, args.given)
        encode(codec, split, args.target, args.rate_weight, given)
    else:
        decode(codec, content, args.source, args.target)


def check_names(split):
    """Check that slices come back by the names that they have."""
    for path, case, level in zip(split.paths, split.cases, split.levels):
        if pathlib.Path(path).name != slice_name(case, level):
            raise InputError(f"{path} would come back as {slice_name(case, level)}: rename it.")


def read(source, target):
    """Bytes of a file that is no larger than any of ours could be, for a target that is free."""
    if not source.is_file():
        raise InputError(f"{source} is not there: name a file that compress.py encode wrote.")
    if source.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{source} is larger than any .bvq file: name another.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty: name a new folder.")
    return source.read_bytes()


def encode(codec, split, target, rate_weight, given):
    """Write the slices of a split as one file, once it was decoded again."""
    codec.warn(split)
    content = codec.encode(split, rate_weight, given)
    with replacing(target) as temporary:
        temporary.write_bytes(content)
    size, pixels = len(content), len(split) * codec.vqvae.settings["image_size"] ** 2
    print(
        f"{target}: {len(split)} slices in {size} bytes, {size / len(split):.1f} a slice, "
        f"{8 * size / pixels:.4f} bits a pixel. It was decoded again, and gives the same codes."
    )


def decode(codec, content, source, target):
    """Restore the slices of a file into a folder, all of them or none, or into a volume."""
    split, codes, given = codec.decode(content, str(source))
    if target.name.endswith(VOLUME):
        if len(set(split.cases.tolist())) > 1:
            raise InputError(f"{source} holds several cases: name a new folder, no volume.")
        codec.write_volume(target, split, codes)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as staging:
            folder = pathlib.Path(staging, "slices")
            codec.write(folder, split, codes)
            folder.replace(target)
    known = "".join(f", {name} {value}" for name, value in given.items())
    print(f"{target}: {len(split)} slices restored{known and ' of whom was given'}{known}.")


if __name__ == "__main__":
    command_line(main, parse())
