"""Where the time of a run went: how busy each stage was, and which one the others waited for."""

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
    """Stage → the share of a worker's time that it worked, as the mean of the stage's threads.

    Example:
        >>> compute_stage_shares(WorkerTimes("cuda:0", threads=4, seconds=10.0, busy={"decode": 20.0, "write": 1.0}))
        {'decode': 0.5, 'write': 0.1}
    """
    threads = dict.fromkeys(("decode", "pack"), max(1, times.threads))
    total_seconds = max(times.seconds, 1e-9)
    return {
        stage: round(seconds / threads.get(stage, 1) / total_seconds, 3)
        for stage, seconds in times.busy.items()
    }


def describe_bottleneck(workers: Sequence[WorkerTimes]) -> str:
    """The stage that the others waited for, over all workers, with what helps; or nothing.

    Stages that run at once wait for the busiest; those of one thread wait for each other.

    Example:
        >>> describe_bottleneck([WorkerTimes("cpu", threads=0, seconds=9.0, busy={"decode": 6.0, "write": 1.0})])
        'decoding takes most of the time: smaller or fewer frames, or more cores, help'
    """
    stage_seconds = dict.fromkeys(STAGE_ADVICE, 0.0)
    for times in workers:
        for stage, share in compute_stage_shares(times).items():
            stage_seconds[stage] += share * times.seconds
    overlapping = any(worked.threads for worked in workers)
    groups = (
        [("decode",), ("transfer", "compute"), ("pack",), ("write",)]
        if overlapping
        else [STAGE_ADVICE]
    )
    busiest = max(groups, key=lambda group: sum(stage_seconds[stage] for stage in group))
    stage = max(busiest, key=lambda name: stage_seconds[name])
    return STAGE_ADVICE[stage] if stage_seconds[stage] else ""
