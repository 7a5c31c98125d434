"""The share of time that each stage of a run was busy, and the stage that held up the others."""

from collections.abc import Sequence

from mrx.job import WorkerTimes

STAGE_ADVICE = {
    "decode": "decoding takes most of the time: smaller or fewer frames, or more cores, help",
    "transfer": "copying to and from the device takes most of the time: smaller frames help",
    "compute": "computing takes most of the time: a faster preset, smaller frames or a GPU help",
    "pack": "packing takes most of the time: --compression none or another --dtype help",
    "write": "writing takes most of the time: a faster disk or a smaller --dtype help",
}


def compute_stage_shares(times: WorkerTimes) -> dict[str, float]:
    """Return each stage's share of a worker's time, averaged over the stage's threads.

    Example:
        >>> busy = {"decode": 20.0, "write": 1.0}
        >>> compute_stage_shares(WorkerTimes("cuda:0", threads=4, seconds=10.0, busy=busy))
        {'decode': 0.5, 'write': 0.1}
    """
    threads = dict.fromkeys(("decode", "pack"), max(1, times.threads))
    total_seconds = max(times.seconds, 1e-9)
    return {
        stage: round(seconds / threads.get(stage, 1) / total_seconds, 3)
        for stage, seconds in times.busy.items()
    }


def describe_bottleneck(workers: Sequence[WorkerTimes]) -> str:
    """Name the stage that limits the speed of all workers and give advice; "" if none was timed.

    Stages that run concurrently wait for the busiest one. Stages that share a thread take turns, so
    their times add up.

    Example:
        >>> busy = {"decode": 6.0, "write": 1.0}
        >>> describe_bottleneck([WorkerTimes("cpu", threads=0, seconds=9.0, busy=busy)])
        'decoding takes most of the time: smaller or fewer frames, or more cores, help'
    """
    stage_seconds = dict.fromkeys(STAGE_ADVICE, 0.0)
    for times in workers:
        for stage, share in compute_stage_shares(times).items():
            stage_seconds[stage] += share * times.seconds
    overlapping = any(times.threads for times in workers)
    # With decode threads, transfer and compute share the thread that feeds the device.
    groups = (
        [("decode",), ("transfer", "compute"), ("pack",), ("write",)]
        if overlapping
        else [STAGE_ADVICE]
    )
    busiest = max(groups, key=lambda group: sum(stage_seconds[stage] for stage in group))
    stage = max(busiest, key=lambda name: stage_seconds[name])
    return STAGE_ADVICE[stage] if stage_seconds[stage] else ""
