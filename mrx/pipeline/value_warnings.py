"""Warnings about the values of a video's maps: clipped, not finite, or stored without loss."""

from collections.abc import Iterator

from mrx.pipeline.method_run import MethodRun
from mrx.shards.encoding import HALF_MAX, ValueStatistics

MAX_CLIPPED_FRACTION = 0.001  # of integers, whose bound is meant to be exceeded rarely


def describe_value_problems(method_run: MethodRun, statistics: ValueStatistics) -> Iterator[str]:
    """Yield a line for each problem that the values of a method's maps have."""
    name, encoding = method_run.method.name, method_run.encoding
    share = _format_share(statistics.clipped_fraction)
    if statistics.nan_count:
        yield (
            f"{name}: {statistics.nan_count} of {statistics.count} values are NaN or infinite; "
            "they are stored as they are"
        )
    if encoding.dtype == "f2" and statistics.clipped:
        yield (
            f"{name}: {share} of the values are beyond {HALF_MAX:.0f}, the largest of float16, and "
            "were clipped: use --dtype float32"
        )
    elif encoding.bound and statistics.clipped_fraction > MAX_CLIPPED_FRACTION:
        yield (
            f"{name}: {share} of the values are beyond {encoding.bound:g}, the bound of "
            f"{encoding.dtype_name}, and were clipped: use a larger --bound or --dtype float16"
        )
    if statistics.lossless:
        yield (
            f"{name}: {statistics.lossless} channels of maps could not be compressed within the "
            f"tolerance {encoding.tolerance:g} and were stored without loss"
        )


def _format_share(fraction: float) -> str:
    """Format a share as a percentage with two digits.

    >>> _format_share(0.0123), _format_share(2.5e-06)
    ('1.2 %', '0.00025 %')
    """
    return f"{100 * fraction:.2g} %"
