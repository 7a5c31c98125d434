"""Print the FLOPs table of MotionSqueeze's supplement beside our count, by its convention.

python tests/benchmarks/flops.py
"""

from mrx.models.flops import compare_with_paper


def main():
    print(f"{'8 frames of 224x224':<22} {'printed G':>9} {'ours G':>8} {'params M':>9}")
    for row in compare_with_paper():
        word = "" if row.reproduced else "  not reproduced: see compare_with_paper"
        counts = f"{row.printed:9.1f} {row.counted:8.3f} {row.parameters:9.3f}"
        print(f"{row.model:<22} {counts}{word}")


if __name__ == "__main__":
    main()
