"""An attack on captions of a model of LLaVA-1.5-7B's size with random weights, built where it computes.

See `gpu.py` for what a row holds.
"""

from __future__ import annotations

import re
import tempfile
from functools import partial
from typing import Any

import torch
from _gpu_measure import Bench
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import radapt
from radapt.attacks import make
from radapt.evaluation.captioning import Captioning
from radapt.models import estimate
from radapt.models.llava import TEMPLATE

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
VOCABULARY = 32_064
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
VISION |= {"image_size": 336, "patch_size": 14, "projection_dim": 768}
TEXT = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
TEXT |= {"num_key_value_heads": 32, "max_position_embeddings": 4096}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokenizer_of(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer of so many entries that knows the words of these texts."""
    split = pre_tokenizers.Whitespace()
    words = [word for text in texts for word, _ in split.pre_tokenize_str(text.lower())]
    listed = list(dict.fromkeys([*SPECIAL, *words]))
    listed += [f"word{number}" for number in range(size - len(listed))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(listed)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), split
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def build(bench: Bench, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The model, its weights drawn on the device in bfloat16."""
    vision, text = (VISION, TEXT) if not bench.tiny else ({**VISION, **TINY, "image_size": 28}, {**TEXT, **TINY})
    if bench.tiny:
        text["num_key_value_heads"] = TINY["num_attention_heads"]
    kind: Any = LlavaConfig  # its annotations name the image token as older versions did
    config = kind(
        vision_config=CLIPVisionConfig(**vision).to_dict(),
        text_config=LlamaConfig(
            **text, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=2, eos_token_id=3
        ).to_dict(),
        image_token_id=SPECIAL.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with bench.device:
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def run(bench: Bench) -> None:
    """All rows."""
    side, most, steps = (28, 2, 2) if bench.tiny else (336, 4, 6)
    data = radapt.load_dataset("shapeworld-captions", n=most, size=side)
    sentences = [text for own in data.captions for text in own]
    size = 200 if bench.tiny else VOCABULARY
    texts = [*sentences, data.prompt(), re.sub(r"{[%{].*?[%}]}", " ", TEMPLATE), "a"]
    held: list[Any] = []

    def prepare() -> dict[str, Any]:
        tokenizer = tokenizer_of(texts, size)
        with bench.memory() as memory:
            model, seconds = bench.timed(partial(build, bench, tokenizer))
            crop = {"height": side, "width": side}
            processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=crop)
            loaded = partial(radapt.load, model, name="llava-7b", tokenizer=tokenizer, processor=processor)
            vlm, checked = bench.timed(partial(loaded, device=bench.device))
        held.append(vlm)
        return {
            "parameters": sum(each.numel() for each in model.parameters()),
            "vocabulary": len(tokenizer),
            "dtype": str(vlm.dtype),
            "build_seconds": round(seconds, 2),
            "load_seconds": round(checked, 2),
            **memory,
        }

    bench.attempt({"kind": "model", "model": "LLaVA-1.5-7B, random weights"}, prepare)
    if not held:
        return
    vlm = held[0]
    captions = Captioning(data)
    for batch, gradient_checkpointing in ((1, False), (1, True), (most, False), (most, True)):
        vlm.gradient_checkpointing = gradient_checkpointing
        row = {"kind": "captions", "batch": batch, "checkpointing": gradient_checkpointing, "steps": steps}
        attack = partial(attacked, bench, vlm, captions, data, batch, steps)
        bench.attempt(row, attack, needs=0 if bench.tiny else 10)
    bench.attempt({"kind": "answers", "batch": most}, partial(answers, bench, vlm, captions, data))


def attacked(bench: Bench, vlm: Any, captions: Captioning, data: Any, batch: int, steps: int) -> dict[str, Any]:
    """APGD on the first caption of each image: a step's seconds are those of the additional steps of a longer run."""
    bound, rows = captions.bind(vlm), list(range(batch))
    objective = bound.objective(rows, stop=False)
    pixels = data.pixels(rows).to(bench.device)

    def go(count: int) -> Any:
        return make("apgd", eps=8 / 255, steps=count)(objective, pixels, batch_size=batch)

    go(1)
    _, short = bench.timed(partial(go, 1))
    with bench.memory() as memory:
        outcome, long = bench.timed(partial(go, 1 + steps))
    return {
        "seconds_per_step": round((long - short) / steps, 4),
        "seconds": round(long, 4),
        "loss_rose": int(outcome.loss_rose.sum()),
        "failed": int(outcome.failed.sum()),
        "clean_loss": round(float(outcome.clean_loss.mean()), 4),
        "loss": round(float(outcome.loss.mean()), 4),
        **memory,
        "estimated_gib": _estimated(vlm, bound, batch),
    }


def _estimated(vlm: Any, bound: Any, batch: int) -> float:
    """What `radapt models` says of a folder with this configuration."""
    tokens = bound.speaker.tokenize([bound.prompts[0]], [bound.goals[0].answers[0]])
    sizes = {"prompt": tokens.ids.shape[1] - tokens.answer - 1, "answer": tokens.answer}
    with tempfile.TemporaryDirectory() as folder:
        vlm.model.config.save_pretrained(folder)
        found = estimate(
            folder, dtype=vlm.dtype, batch_size=batch, **sizes, gradient_checkpointing=vlm.gradient_checkpointing
        )
    return round(found.total / 2**30, 3)


def answers(bench: Bench, vlm: Any, captions: Captioning, data: Any) -> dict[str, Any]:
    """Seconds that the model takes to write an answer to each image."""
    vlm.gradient_checkpointing = False
    bound, rows = captions.bind(vlm), list(range(len(data)))
    pixels = data.pixels(rows)
    bound.answers(pixels, rows, len(rows))
    found, seconds = bench.timed(lambda: bound.answers(pixels, rows, len(rows)))
    return {"seconds": round(seconds, 3), "words": [len(each.text.split()) for each in found]}
