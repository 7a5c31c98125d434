"""Damage shards on purpose, and hold verify, the reader and --repair to what they promise."""

import functools
import multiprocessing
import traceback
from pathlib import Path

import mrx
from mrx.errors import OutputError
from mrx.shards.repair import repair_shard
from mrx.shards.trailer import read_trailer
from mrx.shards.verify import check_shard

SECONDS = 100  # for one damage; CHECK_SECONDS of verify may pass twice


def read_everything(path):
    """Read all that `mrx.open` returns of a shard."""
    with mrx.open(path) as shards:
        found = {"rows": [{**row, "shard": ""} for row in shards.rows()]}
        for key, recording in shards.items():
            found[key] = _plain(recording.attrs)
            for name, maps in recording.items():
                values = maps[:].tobytes(), maps.items.tobytes(), maps.shape
                found[key, name] = *values, _plain(maps.attrs)
    return found


def list_chunk_places(path):
    """Return {key: the places of its chunks, as ranges} of a sealed shard."""
    return {
        record.key: [
            range(int(chunk["offset"]), int(chunk["offset"]) + int(chunk["size"]))
            for maps in record.methods.values()
            for chunk in maps.chunks
        ]
        for record in read_trailer(path).contents.records
    }


def find_effect(path, whole):
    """Return (problems, effect): what verify finds, and what a reader gets.

    The effect is "" if all is as in `whole`, the text of the error, or "other values".
    """
    problems = list(check_shard(path))
    try:
        effect = "" if read_everything(path) == whole else "other values"
    except OutputError as error:
        effect = str(error)
    return problems, effect


def repair_and_compare(path, whole):
    """Repair a shard; return the keys that are kept, and those of them whose maps differ."""
    shards = set(path.parent.glob("shard-*.h5"))
    repair_shard(path)
    kept, changed = set(), set()
    for new in set(path.parent.glob("shard-*.h5")) - shards:
        found = read_everything(new)
        found.pop("rows")
        kept |= {place if isinstance(place, str) else place[0] for place in found}
        changed |= {place for place, value in found.items() if value != whole[place]}
    return kept, changed


def run_each(work, cases, seconds=SECONDS):
    """Yield (case, work(case)) of each case, in a process that may crash or hang.

    The result of a case that raises, crashes or hangs is a text that says so.
    """
    cases = list(cases)
    while cases:
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work_off, args=(sender, work, cases))
        process.start()
        sender.close()
        try:
            while cases:
                if not receiver.poll(seconds):
                    yield cases.pop(0), f"hangs: no answer in {seconds} s"
                    break
                try:
                    result = receiver.recv()
                except EOFError:
                    process.join()
                    yield cases.pop(0), f"crashes: exit code {process.exitcode}"
                    break
                yield cases.pop(0), result
        finally:
            process.kill()
            process.join()
            receiver.close()


def _work_off(sender, work, cases):
    for case in cases:
        try:
            result = work(case)
        except Exception:  # noqa: BLE001 - told as the result
            result = f"raises: {traceback.format_exc(limit=-2)}"
        sender.send(result)


def _plain(attributes):
    return {name: repr(value) for name, value in attributes.items()}


@functools.cache
def read_bytes(path):
    """Read a file that does not change."""
    return Path(path).read_bytes()
