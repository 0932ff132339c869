"""Measure the files that compress.py writes: their bytes, their round trips, and the time of both.

python benchmarks/compression.py --data DIR --run DIR [--split test] [--every N]
    [--rate-weight L] [--json FILE]

Every case becomes a file, and so does every slice alone, and all of them are read again. Their
sizes stand beside the ideal code length of the same codes.
"""

from common import make_parser, show, timed, write_report

# isort: split
from files import Alone, every_case, write_files

from coding.slices import Codec
from fitting.run_directory import RunDirectory
from sources.folder import Split, find_slices, open_slices
from utils import between, command_line


def parse(arguments=None):
    """Read the command line."""
    parser = make_parser(__doc__, "--data", "--run", "--split", "--every", "--json")
    weight = {"type": between(float, 0, 1e6), "metavar": "L"}
    parser.add_argument("--rate-weight", help="price of one bit", **weight)
    return parser.parse_args(arguments)


def main(args):
    """Measure, print and write all figures."""
    split = every_case(open_slices(find_slices(args.data)).splits[args.split], args.every)
    codec, report = Codec(RunDirectory(args.run)), {}
    for name, part in {"cases": split, "alone": Alone(**vars(split))}.items():
        report[name] = measure(codec, part, args.rate_weight)
        show(name, report[name])
    write_report(args.json, report)


def measure(codec: Codec, split: Split, rate_weight: float | None) -> dict:
    """Write a file for each case or slice, read all of them, and compare with the ideal.

    Args:
        codec: The codec of a run.
        split: The slices, N of them. An `Alone` has a file for each.
        rate_weight: See `RasterPrior.choose_codes`.
    """
    written, again = write_files(codec, split, rate_weight), []
    seconds = timed(
        lambda: again.append(codec.read_streams(split, written.numbers, written.streams))
    )
    above = written.sizes - written.ideal
    return {
        "files": len(written.sizes),
        "slices": len(split),
        "round_trips": int((written.codes == again[0]).all((1, 2)).sum()),
        "file_bytes_a_slice": int(written.sizes.sum()) / len(split),
        "ideal_bytes_a_slice": float(written.ideal.sum()) / len(split),
        "share_above_ideal": float(above.sum() / written.ideal.sum()),
        "bytes_above_ideal": float(above.mean()),
        "most_bytes_above_ideal": float(above.max()),
        "encoding_seconds_a_slice": (written.seconds + seconds) / len(split),  # it reads again
        "decoding_seconds_a_slice": seconds / len(split),
    }


if __name__ == "__main__":
    command_line(main, parse())
