"""Overhead of an adapter on a tower of ViT-B/32's size (random weights), as a ratio with the bare tower.

    python benchmarks/adapter_overhead.py [--batch 16] [--rounds 15] [--json FILE]

The bare tower, the filter alone, the anchor's hook alone and the whole adapter run in turn, round after round, on the
same images; a figure is the median over the rounds of (time with) / (time of the bare tower in that round). The file
holds one flat object:

    batch, image_size, rounds, threads  what was run
    bare_ms                             median time of the bare tower's forward pass, in milliseconds
    filter_percent, hook_percent,       overhead in per cent: median ratio - 1; negative is noise
    adapter_percent
    fft_ms, separable_ms                median time of the filter by either method, in milliseconds
    fft_separable_difference            largest difference between the two filtered images
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from radapt.adapters import gaussian_filter, training_free


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32
    )
    model = CLIPVisionModelWithProjection(config).eval()
    images = torch.randn(options.batch, 3, 224, 224)
    whole = training_free(model)
    variants = {"bare": None, "filter": whole.change(alpha=0.0), "hook": whole.change(cutoff=None), "adapter": whole}
    cutoff = whole.settings.cutoff or math.inf
    times: dict[str, list[float]] = {name: [] for name in (*variants, "fft", "separable")}
    with torch.inference_mode():
        for turn in range(options.rounds + 2):
            for name, adapter in variants.items():
                if adapter is not None:
                    adapter.attach(model)
                taken = seconds(lambda: model(pixel_values=images))
                if adapter is not None:
                    adapter.detach()
                if turn >= 2:  # the first two rounds warm up
                    times[name].append(taken)
            for method in ("fft", "separable"):
                taken = seconds(functools.partial(gaussian_filter, images, cutoff, method=method))
                if turn >= 2:
                    times[method].append(taken)
        by_method = [gaussian_filter(images, cutoff, method=m) for m in ("fft", "separable")]

    def overhead(name: str) -> float:
        ratios = [ours / bare for ours, bare in zip(times[name], times["bare"], strict=True)]
        return round(100 * (statistics.median(ratios) - 1), 2)

    figures = {
        "batch": options.batch,
        "image_size": 224,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "bare_ms": round(1e3 * statistics.median(times["bare"]), 2),
        "filter_percent": overhead("filter"),
        "hook_percent": overhead("hook"),
        "adapter_percent": overhead("adapter"),
        "fft_ms": round(1e3 * statistics.median(times["fft"]), 2),
        "separable_ms": round(1e3 * statistics.median(times["separable"]), 2),
        "fft_separable_difference": float((by_method[0] - by_method[1]).abs().max()),
    }
    for key, value in figures.items():
        print(f"{key:>26}  {value}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
