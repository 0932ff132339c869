import importlib.util

import numpy as np
import pytest
from conftest import ROOT, draw_slice

specification = importlib.util.spec_from_file_location("rate_distortion", ROOT / "benchmarks" / "rate_distortion.py")
benchmark = importlib.util.module_from_spec(specification)
specification.loader.exec_module(benchmark)


@pytest.mark.parametrize("name", benchmark.CODECS)
def test_better_quality_costs_more_and_black_costs_nothing(name):
    images = np.stack([draw_slice(1, 0), draw_slice(2, 3)])
    low, high = (benchmark.codec_point(images, benchmark.CODECS[name][i]) for i in (0, -1))
    assert low["ssim"] < high["ssim"] and 0 < low["payload_bytes"] < high["payload_bytes"]
    assert low["payload_bytes"] < low["file_bytes"]
    assert benchmark.codec_point(np.zeros_like(images), benchmark.CODECS[name][0])["payload_bytes"] == 0


def test_bytes_between_points_and_none_beyond():
    points = [{"ssim": 0.9, "bytes": 100}, {"ssim": 0.96, "bytes": 400}]
    assert benchmark.bytes_at(points, "bytes", 0.93) == pytest.approx(200)
    assert np.isnan(benchmark.bytes_at(points, "bytes", 0.97)) and np.isnan(benchmark.bytes_at(points, "bytes", 0.89))
