"""Train the extraction module inside a network: python 05_in_a_classifier.py."""

from pathlib import Path

import av
import torch
from torch import nn

from mrx.methods.mbpm import MBPM

CLIPS = sorted((Path(__file__).parent / "media").glob("*.mp4"))
STEPS, BATCH = 40, 16


class Net(nn.Module):
    """Classifies windows by their clip: motion, then two convolutions."""

    def __init__(self, classes):
        super().__init__()
        self.motion = MBPM()  # its filters are parameters and train too
        self.head = nn.Sequential(
            nn.BatchNorm2d(len(self.motion.channels)),
            nn.Conv2d(len(self.motion.channels), 16, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, classes),
        )

    def forward(self, frames):
        clip = self.motion.prepare(frames)  # (B, 3, 3, H, W) bytes to floats
        return self.head(self.motion(clip))


def windows(path):
    """Return all windows of three frames of a clip: (N, 3, 3, H, W), uint8."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24", width=80, height=60) for f in container.decode()]
    video = torch.stack([torch.from_numpy(f) for f in frames])  # (T, H, W, C)
    return video.permute(0, 3, 1, 2).unfold(0, 3, 1).permute(0, 4, 1, 2, 3)


def main():
    torch.manual_seed(0)
    per_clip = [windows(path) for path in CLIPS]
    data = torch.cat(per_clip)
    labels = torch.cat([torch.full((len(w),), i) for i, w in enumerate(per_clip)])
    net = Net(len(CLIPS))
    before = net.motion.conv_s.weight.clone()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    losses = []
    for step in range(STEPS):
        chosen = torch.randint(len(data), (BATCH,))
        loss = nn.functional.cross_entropy(net(data[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 5 == 0:
            print(f"step {step:3}  loss {loss:.3f}")
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    moved = (net.motion.conv_s.weight - before).abs().max()
    print(f"loss {first:.3f} -> {last:.3f}; the filters moved by up to {moved:.3f}")


if __name__ == "__main__":
    main()
