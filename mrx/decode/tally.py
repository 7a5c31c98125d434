"""What was seen while decoding: counts, the first error, warnings, facts for the attributes."""

from dataclasses import dataclass, field
from typing import Any, Literal

from mrx.errors import DecodeError


@dataclass
class DecodeTally:
    """Counts of one pass over a video. Each signal of damage catches what the others miss.

    Attributes:
        frames: frames delivered by the decoder
        frames_selected: those of them inside the range and at the rate asked for
        first_time, last_time: times of the first and last selected frame
        errors: packets (or images) that could not be decoded
        frames_corrupt, packets_corrupt: flagged by the decoder and the demuxer
        packets, packets_discarded: packets seen, and those that an edit list hides
        truncated: the container ended in the middle of something
        partial: not read from the first frame to the last, so that counts do not compare
        facts: everything else worth keeping in the attributes
    """

    on_error: Literal["skip", "stop", "fail"] = "skip"
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
    encrypted: bool = False
    stopped: bool = False
    partial: bool = False
    first_error: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        """Keep a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def record_error(self, error: Exception) -> None:
        """Count something that could not be decoded; what follows is the user's choice."""
        self.errors += 1
        self.first_error = self.first_error or describe_decode_error(error)
        if self.on_error == "fail":
            raise DecodeError(f"damaged: {describe_decode_error(error)}") from error
        self.stopped = self.stopped or self.on_error == "stop"

    @property
    def frames_lost(self) -> int:
        """Frames that packets promised and the decoder did not give, without any other sign."""
        frames_accounted = self.frames + self.packets_discarded + self.errors
        return 0 if self.partial else max(self.packets - frames_accounted, 0)

    def reset_counts(self) -> None:
        """Forget the counts and the damage of a pass that begins again."""
        self.frames = self.packets = self.packets_discarded = self.errors = 0
        self.frames_corrupt = self.packets_corrupt = 0
        self.truncated = self.encrypted = self.stopped = self.partial = False
        self.first_error = ""

    def describe_damage(self) -> str:
        """In one phrase what was wrong with a video that gave frames all the same, or nothing."""
        counts = {
            "packets undecodable": self.errors if self.packets else 0,
            "images unreadable": 0 if self.packets else self.errors,
            "frames corrupt": self.frames_corrupt,
            "packets corrupt": self.packets_corrupt,
            "frames lost": self.frames_lost,
        }
        parts = [f"{n} {what}" for what, n in counts.items() if n]
        parts += ["cut off before its end"] if self.truncated else []
        first_error = f" ({self.first_error})" if self.first_error else ""
        return "damaged: " + ", ".join(parts) + first_error if parts else ""

    def to_attributes(self) -> dict[str, Any]:
        """The counts and facts as attributes of the video."""
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
    """An error in a phrase; FFmpeg keeps the cause in its log, not in the exception's text."""
    log = getattr(error, "log", None)
    text = log[2].strip() if log and log[2] else (getattr(error, "strerror", None) or str(error))
    if "moov atom not found" in text:
        return f"not a video, or cut off before its index ({text})"
    return str(text)
