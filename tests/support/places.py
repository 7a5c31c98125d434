"""Define the folders of test data, and the frame counts of the real clips."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = Path(__file__).parents[1] / "golden"
REAL_CLIPS = {
    "apple_roll.mp4": 50,
    "armwrestling.mp4": 280,
    "chaplin_bw.mp4": 241,
    "eyemakeup.avi": 164,
    "pancake.mkv": 310,
    "pillow_hands.mp4": 147,
    "weightlifting.mp4": 355,
}
