"""Captions under attack: how many images a minute, in batches and the way in which RobustVLM works.

    python benchmarks/lvlm_attack.py [--models micro/llava,micro/qwen-vl] [--n 32] [--steps 50] [--batch-size 16]
        [--eps 8/255] [--threads 1] [--json FILE]

Both attack the same captions with the same pipeline (each true caption in turn, then once more from the worst image; a
picture leaves once its CIDEr is low) and the same APGD. RobustVLM's way is one picture at a time, the weights in the
graph, logits at every token of the sequence, and answers written without a cache of keys and values. A row:

    model, way             batched, or one by one
    n, steps, eps
    clean, robust          CIDEr x 100 before and after
    seconds, per_minute    wall clock of the attack, and pictures a minute
    ratio                  (batched) per_minute / per_minute one by one
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import radapt
from radapt.attacks import make
from radapt.evaluation.captioning import Captioning
from radapt.models import Tokens, likelihood


class OneByOne:
    """Methods that take the place of a generative model's own: nothing saved, nothing kept."""

    @staticmethod
    def read(model: Any, pixels: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """All logits of the sequence, and the answer's loss taken from them."""
        inputs = model.inputs(pixels, tokens)
        logits = model.model(**inputs, use_cache=False).logits.float()
        return likelihood(logits[:, -tokens.answer - 1 :], inputs["input_ids"], inputs["attention_mask"].bool())

    @staticmethod
    def generate(model: Any, pixels: Tensor, tokens: Tokens, *, max_new_tokens: int = 20) -> list[str]:
        """Greedy decoding; every new token reads the whole sequence again."""
        with torch.no_grad():
            inputs = model.inputs(pixels, tokens)
            given = inputs["input_ids"].shape[1]
            output = model.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=False)
        texts = model.tokenizer.batch_decode(output[:, given:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def run(name: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Attack the captions of a model and time it."""
    model: Any = radapt.load(name)
    batched = way == "batched"
    if not batched:
        model.model.requires_grad_(True)
        model.answer_scores = lambda pixels, tokens: OneByOne.read(model, pixels, tokens)
        model.generate = lambda pixels, tokens, max_new_tokens=20: OneByOne.generate(
            model, pixels, tokens, max_new_tokens=max_new_tokens
        )
    data = radapt.load_dataset("shapeworld-captions", n=options.n)
    bound = Captioning(data).bind(model)
    pixels, batch_size, every = data.pixels(range(len(data))), options.batch_size if batched else 1, range(len(data))
    clean = [answer.score for answer in bound.answers(pixels, every, batch_size)]
    top, _, bottom = options.eps.partition("/")
    attack = make("apgd", eps=float(top) / float(bottom or 1), steps=options.steps)
    start = time.perf_counter()
    outcome = bound.attack(attack, pixels, every, keys=data.keys, seed=0, batch_size=batch_size, stop=True)
    seconds = time.perf_counter() - start
    after = [answer.score for answer in bound.answers(outcome.pixels, every, batch_size)]
    return {
        "model": name,
        "way": way,
        "n": len(data),
        "steps": options.steps,
        "eps": options.eps,
        "clean": round(100 * sum(clean) / len(clean), 1),
        "robust": round(100 * sum(after) / len(after), 1),
        "seconds": round(seconds, 1),
        "per_minute": round(60 * len(data) / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="micro/llava,micro/qwen-vl")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--eps", default="8/255")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console, rows = Console(), list[dict[str, Any]]()
    for name in options.models.split(","):
        slow, fast = run(name, "one by one", options), run(name, "batched", options)
        fast["ratio"] = round(fast["per_minute"] / slow["per_minute"], 2)
        for row in (slow, fast):
            console.print("  ".join(f"{key} {value}" for key, value in row.items()), highlight=False)
        rows += [slow, fast]
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
