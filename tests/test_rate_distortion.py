"""Rates of codecs, and the bytes at which curves reach the same SSIM."""

import numpy as np
import pytest
import rate_distortion
from conftest import draw_slice


@pytest.mark.parametrize("name", rate_distortion.CODECS)
def test_better_quality_costs_more_and_black_costs_nothing(name):
    images = np.stack([draw_slice(1, 0), draw_slice(2, 3)])
    low, high = (
        rate_distortion.codec_point(images, rate_distortion.CODECS[name][i]) for i in (0, -1)
    )
    assert low["ssim"] < high["ssim"] and 0 < low["payload_bytes"] < high["payload_bytes"]
    assert low["payload_bytes"] < low["file_bytes"]
    assert (
        rate_distortion.codec_point(np.zeros_like(images), rate_distortion.CODECS[name][0])[
            "payload_bytes"
        ]
        == 0
    )


def test_bytes_between_points_and_none_beyond():
    points = [{"ssim": 0.9, "bytes": 100}, {"ssim": 0.96, "bytes": 400}]
    assert rate_distortion.bytes_at(points, "bytes", 0.93) == pytest.approx(250)
    wasteful = {"ssim": 0.92, "bytes": 300}
    assert rate_distortion.bytes_at([*points, wasteful], "bytes", 0.92) == pytest.approx(
        200
    )  # a third of the slices at 400
    assert rate_distortion.bytes_at(
        [*points, {"ssim": 0.94, "bytes": 200}], "bytes", 0.93
    ) == pytest.approx(175)
    assert np.isnan(rate_distortion.bytes_at(points, "bytes", 0.97)) and np.isnan(
        rate_distortion.bytes_at(points, "bytes", 0.89)
    )


def test_points_that_another_beats_are_no_curve():
    points = [{"ssim": 0.8, "bytes": 100}, {"ssim": 0.7, "bytes": 150}, {"ssim": 0.9, "bytes": 200}]
    assert rate_distortion.frontier(points, "bytes") == [points[0], points[2]]
