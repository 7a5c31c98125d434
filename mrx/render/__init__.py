"""Draw tensors and arrays as pictures: uint8 RGB, ``(H, W, 3)``.

`picture` draws the maps of any method; each of the other functions draws one kind of values.
Unknown values are gray (`UNKNOWN`). No function opens a window.

Example:
    >>> import numpy as np
    >>> scale = Scale()  # one scale for the whole clip, so that colors do not flicker
    >>> clip = np.random.default_rng(0).normal(size=(8, 2, 24, 32))
    >>> for flow in clip:
    ...     scale.add(magnitude(flow))
    >>> pictures = [flow_to_rgb(flow, max_flow=scale.bound) for flow in clip]
    >>> pictures[0].shape, pictures[0].dtype
    ((24, 32, 3), dtype('uint8'))
"""

from mrx.render.arrays import UNKNOWN as UNKNOWN
from mrx.render.arrays import Picture as Picture
from mrx.render.arrays import Values as Values
from mrx.render.arrays import frame_to_rgb as frame_to_rgb
from mrx.render.axes import color_bar as color_bar
from mrx.render.axes import kernel_map as kernel_map
from mrx.render.axes import weights_row as weights_row
from mrx.render.color_scale import Scale as Scale
from mrx.render.color_scale import robust_maximum as robust_maximum
from mrx.render.diverging import diverging_to_rgb as diverging_to_rgb
from mrx.render.filter_grid import filters_to_rgb as filters_to_rgb
from mrx.render.grid import grid as grid
from mrx.render.heat import confidence_to_rgb as confidence_to_rgb
from mrx.render.heat import heat_to_rgb as heat_to_rgb
from mrx.render.heat import magnitude as magnitude
from mrx.render.legends import arrow_legend as arrow_legend
from mrx.render.legends import bar_legend as bar_legend
from mrx.render.legends import inset as inset
from mrx.render.legends import wheel_legend as wheel_legend
from mrx.render.overlay import overlay as overlay
from mrx.render.overlay import quiver as quiver
from mrx.render.signed import signed_to_rgb as signed_to_rgb
from mrx.render.styles import STYLES as STYLES
from mrx.render.styles import Style as Style
from mrx.render.styles import kind_of as kind_of
from mrx.render.styles import legend as legend
from mrx.render.styles import measure as measure
from mrx.render.styles import new_scale as new_scale
from mrx.render.styles import parts as parts
from mrx.render.styles import picture as picture
from mrx.render.surface import surface as surface
from mrx.render.text import draw_text as draw_text
from mrx.render.text import label as label
from mrx.render.text import to_ascii as to_ascii
from mrx.render.wheel import color_wheel as color_wheel
from mrx.render.wheel import displacement_to_rgb as displacement_to_rgb
from mrx.render.wheel import flow_to_hsv as flow_to_hsv
from mrx.render.wheel import flow_to_rgb as flow_to_rgb
from mrx.render.wheel import hue_to_rgb as hue_to_rgb
