"""Counts, errors, warnings and facts collected while a video is decoded."""

from dataclasses import dataclass, field
from typing import Any

from mrx.errors import DecodeError
from mrx.job import DamagePolicy


@dataclass
class DecodeTally:
    """Counts of one pass over a video. Each sign of damage catches cases that the others miss.

    Attributes:
        on_error: how `record_error` treats damage; see `mrx.job.Decoding`
        frames: frames delivered by the decoder
        frames_selected: frames inside the range, at the rate asked for
        first_time, last_time: times of the first and last selected frame
        packets, packets_discarded: packets read, and those hidden by an edit list
        errors: packets (or images) that could not be decoded
        frames_corrupt, packets_corrupt: flagged by the decoder and the demuxer
        truncated: the container broke off before its end, or gave less than its headers promise
        frames_missing: frames that the headers promise and that never came
        encrypted: an encrypted packet came before any frame
        stopped: damage ended the pass, as `on_error` asked
        partial: the pass skipped frames, so packets and frames cannot be compared
        first_error: the first error in words
        warnings: oddities that are not damage, each once
        facts: further attributes of the video
    """

    on_error: DamagePolicy = "skip"
    frames: int = 0
    frames_selected: int = 0
    first_time: float = 0.0
    last_time: float = 0.0
    packets: int = 0
    packets_discarded: int = 0
    errors: int = 0
    frames_corrupt: int = 0
    packets_corrupt: int = 0
    truncated: bool = False
    frames_missing: int = 0
    encrypted: bool = False
    stopped: bool = False
    partial: bool = False
    first_error: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        """Add a warning, unless it is already listed."""
        if text not in self.warnings:
            self.warnings.append(text)

    def record_error(self, error: Exception) -> None:
        """Count a packet or image that could not be decoded, then act as `on_error` says.

        Raises:
            DecodeError: `on_error` is ``fail``.
        """
        self.errors += 1
        self.first_error = self.first_error or describe_decode_error(error)
        if self.on_error == "fail":
            raise DecodeError(f"damaged: {describe_decode_error(error)}") from error
        self.stopped = self.stopped or self.on_error == "stop"

    @property
    def frames_lost(self) -> int:
        """Missing frames, and packets of a whole pass without a frame or a sign of damage."""
        frames_accounted = self.frames + self.packets_discarded + self.errors
        vanished = 0 if self.partial else max(self.packets - frames_accounted, 0)
        return vanished + self.frames_missing

    def reset_counts(self) -> None:
        """Reset counts and damage, to read again from the beginning; keep warnings and facts."""
        self.frames = self.packets = self.packets_discarded = self.errors = 0
        self.frames_corrupt = self.packets_corrupt = self.frames_missing = 0
        self.truncated = self.encrypted = self.stopped = self.partial = False
        self.first_error = ""

    def describe_damage(self) -> str:
        """Describe the damage of a video that gave frames nevertheless; empty if there is none."""
        counts = {
            "packets undecodable": self.errors if self.packets else 0,
            "images unreadable": 0 if self.packets else self.errors,
            "frames corrupt": self.frames_corrupt,
            "packets corrupt": self.packets_corrupt,
            "frames lost": self.frames_lost,
        }
        parts = [f"{count} {kind}" for kind, count in counts.items() if count]
        if self.truncated:
            parts.append("cut off before its end")
        if not parts:
            return ""
        first_error = f" ({self.first_error})" if self.first_error else ""
        return f"damaged: {', '.join(parts)}{first_error}"

    def to_attributes(self) -> dict[str, Any]:
        """Return the counts and facts as attributes of the video."""
        return {
            **self.facts,
            "n_frames": self.frames_selected,
            "first_time": self.first_time,
            "duration": self.last_time - self.first_time + 1 / self.facts["avg_fps"],
            "n_frames_decoded": self.frames,
            "decode_errors": self.errors,
            "frames_corrupt": self.frames_corrupt,
            "packets_corrupt": self.packets_corrupt,
            "frames_lost": self.frames_lost,
            "truncated": self.truncated,
        }


def describe_decode_error(error: Exception) -> str:
    """Return the cause of an error in one phrase."""
    # FFmpeg writes the cause to its log, not to the exception's text.
    log = getattr(error, "log", None)
    text = log[2].strip() if log and log[2] else (getattr(error, "strerror", None) or str(error))
    if "moov atom not found" in text:
        return f"not a video, or cut off before its index ({text})"
    return str(text)
