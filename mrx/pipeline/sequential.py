"""One video after another, one stage after another: for a worker that has one core."""

from collections.abc import Iterable, Iterator

import torch

from mrx.errors import InputError, RunCanceled
from mrx.job import ManifestRow, Source
from mrx.pipeline.compute import BatchComputer
from mrx.pipeline.tasks import PipelineStages, VideoTask, WindowBatch


def run_sequentially(
    stages: PipelineStages, computer: BatchComputer, sources: Iterable[Source]
) -> Iterator[ManifestRow]:
    """Pass each source through the stages and yield its row.

    Raises:
        MrxError: an error that is not one video's; the video in flight is dropped
    """
    for source in sources:
        task = stages.begin_video(source)
        try:
            # Left before each yield: the mode would otherwise leak into the caller's own code.
            with torch.inference_mode():
                _process_video(stages, computer, task)
            row = stages.finish_video(task)
        except BaseException:
            stages.drop_videos([task])
            raise
        yield row


def _process_batch(stages: PipelineStages, computer: BatchComputer, batch: WindowBatch) -> None:
    # Collected at once, so that nothing of this batch is held when the next one needs memory.
    for part, maps in [*computer.submit_group([batch]), *computer.collect_results()]:
        if maps is not None:
            stages.write_maps(part, maps.pack())


def _process_video(stages: PipelineStages, computer: BatchComputer, task: VideoTask) -> None:
    try:
        for batch in stages.decode_windows(task):
            stages.check_canceled()
            limit = computer.get_window_limit(batch.method_run.method.name)
            for part in batch.split_windows(limit):
                _process_batch(stages, computer, part)
            if task.failure:
                return
    except RunCanceled:
        # A subclass of InputError, but it ends the run instead of failing the video.
        raise
    except InputError as error:
        task.record_failure(error)
