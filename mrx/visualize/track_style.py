"""The style, scale and labels of a method's pictures, chosen by the user's options."""

from dataclasses import dataclass
from typing import Any

from mrx import render
from mrx.errors import UsageError
from mrx.render.styles import MapKind
from mrx.visualize.moments import MethodTrack
from mrx.visualize.picture_options import PictureOptions


@dataclass(frozen=True)
class MapPart:
    """The channels of a method's map that make one picture.

    Attributes:
        index: the slice of the map's channels
        channels: their names
        kind: their kind, see `render.kind_of`
        style: the style of `mrx.render` that draws them
        channel_label: the channels' names, or empty if the method has one part only
        parameter_labels: ``NAME=VALUE`` of each parameter to show with this part
    """

    index: slice
    channels: tuple[str, ...]
    kind: MapKind
    style: render.Style
    channel_label: str
    parameter_labels: tuple[str, ...]


class TrackStyle:
    """Chooses the parts, styles, scale and labels of one method's pictures.

    Args:
        track: the method
        options: the look of the pictures

    Attributes:
        parts: the parts of a map, one picture each
        fixed_bound: the magnitude of full color that `max_flow` sets; None for anything but
            displacements
        scale: the magnitudes measured so far

    Raises:
        UsageError: the method has no such style
    """

    def __init__(self, track: MethodTrack, options: PictureOptions) -> None:
        self.track = track
        self.options = options
        self._style: render.Style = "auto" if options.style == "side-by-side" else options.style
        # The whole map's kind: drawn signed, each component of a displacement is a "change".
        self.kind = render.kind_of(track.channels, track.units)
        if self._style not in ("auto", *render.STYLES[self.kind]):
            styles = ", ".join(("side-by-side", *render.STYLES[self.kind]))
            raise UsageError(
                f"--style {options.style}: {track.name} has no such style; it has {styles}"
            )
        self.fixed_bound = options.max_flow if self.kind == "displacement" else None
        self.scale = render.new_scale(track.channels, units=track.units, style=self._style)
        slices = render.parts(track.channels, units=track.units, style=self._style)
        self.parts = [
            self._make_part(index, is_first=index is slices[0], is_only=len(slices) == 1)
            for index in slices
        ]

    def _make_part(self, index: slice, *, is_first: bool, is_only: bool) -> MapPart:
        channels = self.track.channels[index]
        kind = render.kind_of(channels, self.track.units)
        shows_parameters = is_first and self.options.label == "parameters"
        parameters = self.track.parameters if shows_parameters else {}
        return MapPart(
            index,
            channels,
            kind,
            # A further part may be of another kind, as ms's confidence: it keeps its own style.
            style=self._style if self._style in render.STYLES[kind] else "auto",
            channel_label="" if is_only else " ".join(channels),
            parameter_labels=tuple(f"{name}={value}" for name, value in parameters.items()),
        )

    def measure_maps(self, maps: Any) -> None:
        """Include the maps of a moment in the scale."""
        track = self.track
        self.scale.add(render.measure(maps, track.channels, units=track.units, style=self._style))

    def find_bound(self) -> float | None:
        """Return the magnitude of full color, or None if each picture has its own."""
        if self.fixed_bound:
            return self.fixed_bound
        return None if self.options.per_frame_scale else self.scale.bound

    def find_full_strength(self, part: MapPart, maps: Any) -> float:
        """Return the magnitude of full color in the picture of one part of `maps`."""
        if part.kind == "confidence":
            return 1.0
        bound = self.find_bound()
        if bound is not None:
            return bound
        units, style = self.track.units, self._style
        scale = render.new_scale(part.channels, units=units, style=style)
        scale.add(render.measure(maps[part.index], part.channels, units=units, style=style))
        return scale.bound

    def make_labels(self, separator: str) -> list[str]:
        """Return the label of each part: method, channels and parameters."""
        names = [" ".join(filter(None, [self.track.name, p.channel_label])) for p in self.parts]
        return [
            separator.join([name, *part.parameter_labels])
            for name, part in zip(names, self.parts, strict=True)
        ]
