"""One video after another, one stage after another: the way of a worker that is one core."""

from collections.abc import Iterable, Iterator

import torch

from mrx.errors import InputError, RunCancelled
from mrx.job import ManifestRow, Source
from mrx.pipeline.compute import BatchComputer
from mrx.pipeline.tasks import PipelineStages, VideoTask, WindowBatch


def run_sequentially(
    stages: PipelineStages, computer: BatchComputer, sources: Iterable[Source]
) -> Iterator[ManifestRow]:
    """Bring every source through the stages; the row of each.

    Raises:
        MrxError: what no video is to blame for; the video in flight is dropped
    """
    for source in sources:
        task = stages.begin_video(source)
        try:
            with torch.inference_mode():
                _process_video(stages, computer, task)
            row = stages.finish_video(task)
        except BaseException:
            stages.drop_videos([task])
            raise
        yield row


def _pass_batch(stages: PipelineStages, computer: BatchComputer, batch: WindowBatch) -> None:
    """Compute, pack and write; nothing of it is held when the next piece wants memory."""
    for part, maps in [*computer.submit_group([batch]), *computer.collect_results()]:
        if maps is not None:
            stages.write_maps(part, maps.pack())


def _process_video(stages: PipelineStages, computer: BatchComputer, task: VideoTask) -> None:
    try:
        for batch in stages.decode_windows(task):
            stages.check_cancelled()
            for part in batch.split_windows(
                computer.get_window_limit(batch.method_run.method.name)
            ):
                _pass_batch(stages, computer, part)
            if task.failure:
                return
    except RunCancelled:
        raise
    except InputError as error:
        task.record_failure(error)
