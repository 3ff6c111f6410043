"""What LLaVA and Qwen-VL share: a vision tower whose tokens a language model reads between those of a prompt."""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radapt.errors import InputError, ModelError
from radapt.types import Embeddings, Flags, PerSample, Pixels

from ._mode import recomputing
from ._pretrained import save_parts
from ._tokens import Tokens, likelihood
from ._tower import Tower
from ._vlm import VLM, check_texts

__all__ = ["Generative", "chat_template", "generative"]

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_CHAT_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>")
"""Special tokens that close a turn in the templates of language models."""


class Generative(VLM):
    """A vision-language model of ``transformers`` that generates text about one image.

    Args:
        name: what reports call it.
        model: the whole model, with its language head.
        tokenizer: its tokenizer; None: it can neither read nor write.
        processor: its image processor; None: pixels are normalised as the tower says.
        tower: gives the vision encoder of the model.
        template: Jinja chat template; see :func:`chat_template`.
        image_size: height and width of the images that :meth:`preprocess` gives.

    Attributes:
        gradient_checkpointing: whether :meth:`answer_scores` keeps only the inputs of each block and computes the rest
            again in the backward pass: about a third more time, for a fraction of the memory.
    """

    model: Any
    gradient_checkpointing = False

    def __init__(
        self, name: str, model: Any, tokenizer: Any, processor: Any, *,
        tower: Callable[[nn.Module], Tower], template: str, image_size: tuple[int, int],
    ) -> None:  # fmt: skip
        super().__init__(name, model, image_size=image_size)
        self.tokenizer, self.processor, self.template = tokenizer, processor, template
        self._tower = tower

    @property
    def tower(self) -> Tower:
        tower = self._tower(self.model)
        if self.processor is None:
            return tower
        return tower.normalised(self.processor.image_mean, self.processor.image_std)

    @abstractmethod
    def _image_inputs(self, pixels: Pixels) -> dict[str, Any]:
        """The arguments of the model that carry the images, normalised."""

    @abstractmethod
    def image_tokens(self, height: int, width: int) -> int:
        """Number of tokens that an image of this size takes in the prompt."""

    def _token_inputs(self, ids: Tensor) -> dict[str, Any]:
        """Further arguments of the model, which depend on the tokens."""
        return {}

    def encode_image(self, pixels: Pixels) -> Embeddings:
        """The tokens that the language model receives of an image, laid end to end; differentiable."""
        features = self.model.get_image_features(**self._image_inputs(pixels)).pooler_output
        return torch.stack([each.flatten() for each in features])

    def image_parameters(self) -> dict[str, Tensor]:
        parts = (f"{self.tower.name_in(self.model)}.", "model.multi_modal_projector.")
        return {name: p for name, p in self.model.named_parameters() if name.startswith(parts)}

    def _prompt(self, text: str) -> list[int]:
        """A user's turn with one image and a text, up to where the answer begins."""
        content = [{"type": "image"}, {"type": "text", "text": text}]
        turn = [{"role": "user", "content": content}]
        prompt: str = self.tokenizer.apply_chat_template(
            turn, chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        has_start = bool(self.tokenizer.bos_token) and prompt.startswith(self.tokenizer.bos_token)
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=not has_start)["input_ids"]
        count = ids.count(self.model.config.image_token_id)
        if count != 1:
            raise InputError(f"a prompt must have one place for the image, this has {count}: {prompt!r}")
        return ids

    def tokenize(self, prompts: Sequence[str], answers: Sequence[str] = ()) -> Tokens:
        """Prompts, and answers to them, as the language model reads them; see :class:`Tokens`.

        Raises:
            InputError: no prompts, an empty one, or more than the model can hold.
            ModelError: the model came without a tokenizer.
        """
        check_texts(prompts)
        if self.tokenizer is None:
            raise ModelError(f"{self.name} came without a tokenizer; pass one: radapt.load(model, tokenizer=...)")
        if answers:
            check_texts(answers)
            if len(answers) != len(prompts):
                raise InputError(f"there must be one answer per prompt, got {len(answers)} for {len(prompts)}")
        prompt_ids = {text: self._prompt(text) for text in dict.fromkeys(prompts)}
        ends = self.ends if answers else []
        answer_ids = {
            text: self.tokenizer(text, add_special_tokens=False)["input_ids"] + ends[:1]
            for text in dict.fromkeys(answers)
        }
        for text, ids in answer_ids.items():
            if self.model.config.image_token_id in ids:
                raise InputError(f"an answer has no place for an image, this has: {text!r}")
            if not set(ends).isdisjoint(ids[:-1]):
                raise InputError(f"an answer ends with its last word, this has a token in it that ends it: {text!r}")
        left = max(map(len, prompt_ids.values()))
        right = max(map(len, answer_ids.values()), default=0)
        room = self.model.config.get_text_config().max_position_embeddings - self.image_tokens(*self.image_size)
        if left + right > room:
            raise InputError(f"prompt and answer take {left + right} tokens, beside the image there is room for {room}")
        ids = torch.full((len(prompts), left + right), self._padding, dtype=torch.int64, device="cpu")
        mask = torch.zeros(ids.shape, dtype=torch.bool, device="cpu")
        for row, text in enumerate(prompts):
            before, after = prompt_ids[text], answer_ids[answers[row]] if answers else []
            columns = slice(left - len(before), left + len(after))
            ids[row, columns] = torch.tensor(before + after, dtype=torch.int64, device="cpu")
            mask[row, columns] = True
        return Tokens(ids, mask, right)

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer: the tokenizer's first, then the checkpoint's and those of chat templates.

        Raises:
            ModelError: there is none, or one is not in the vocabulary.
        """
        own = getattr(self.model.generation_config, "eos_token_id", None)
        given = [self.tokenizer.eos_token_id, *(own if isinstance(own, Sequence) else [own])]
        chat: Any = getattr(self.tokenizer, "added_tokens_encoder", {})
        found = dict.fromkeys(each for each in [*given, *map(chat.get, _CHAT_ENDS)] if each is not None)
        size = self.model.config.get_text_config().vocab_size
        wrong = [each for each in found if not isinstance(each, int) or not 0 <= each < size]
        if wrong or not found:
            got = f"the end token {wrong[0]!r}" if wrong else "no end token (eos_token)"
            raise ModelError(f"{self.name} has {got}; tokenizer or generation_config must give one below {size}")
        return list(found)

    @property
    def _padding(self) -> int:
        """The token that pads; any will do, as it is masked."""
        pad = self.tokenizer.pad_token_id
        return int(self.ends[0] if pad is None else pad)

    def inputs(self, pixels: Pixels, tokens: Tokens) -> dict[str, Any]:
        """Arguments of the model: images, and tokens with a place for each token of the image."""
        if len(tokens) != len(pixels):
            raise InputError(f"there must be one prompt per image, got {len(tokens)} for {len(pixels)}")
        ids, mask = tokens.ids.to(self.device), tokens.mask.to(self.device)
        image = ids == self.model.config.image_token_id
        times = torch.where(image, self.image_tokens(*pixels.shape[-2:]), 1).flatten()
        ids, mask = (each.flatten().repeat_interleave(times).view(len(pixels), -1) for each in (ids, mask))
        return {
            "input_ids": ids,
            "attention_mask": mask.long(),
            **self._image_inputs(pixels),
            **self._token_inputs(ids),
        }

    def answer_scores(self, pixels: Pixels, tokens: Tokens) -> tuple[PerSample, Flags]:
        """Loss of answers, and whether greedy decoding gives them.

        Args:
            pixels: images in [0, 1], one per row of ``tokens``.
            tokens: prompts with answers, from :meth:`tokenize`.

        Returns:
            The negative log-likelihood per token of each answer, its end included, in float32, differentiable with
            respect to the pixels; and whether greedy decoding gives exactly that answer. Of several tokens that end an
            answer, any will do.

        Raises:
            InputError: wrong images, not one per row, or no answers.
        """
        if not tokens.answer:
            raise InputError("there are no answers to score; give them to tokenize(prompts, answers)")
        inputs = self.inputs(pixels, tokens)
        mask = inputs["attention_mask"]
        positions = {} if "mm_token_type_ids" in inputs else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        with recomputing(self.model, self.gradient_checkpointing):
            output = self.model(**inputs, **positions, use_cache=False, logits_to_keep=tokens.answer + 1)
        return likelihood(output.logits, inputs["input_ids"], mask.bool(), self.ends)

    def answer_loss(self, pixels: Pixels, prompts: Sequence[str], answers: Sequence[str]) -> PerSample:
        """Negative log-likelihood per token of answers; see :meth:`answer_scores`."""
        return self.answer_scores(pixels, self.tokenize(prompts, answers))[0]

    def generate(self, pixels: Pixels, prompts: Sequence[str] | Tokens, *, max_new_tokens: int = 20) -> list[str]:
        """What the model answers, by greedy decoding, whatever its ``generation_config`` says but for end tokens.

        Args:
            pixels: images in [0, 1].
            prompts: one per image.
            max_new_tokens: most tokens of an answer.

        Raises:
            InputError: no prompts, an empty one, or not one per image.
            ModelError: the model came without a tokenizer.
        """
        from transformers import GenerationConfig

        tokens, ends = prompts if isinstance(prompts, Tokens) else self.tokenize(prompts), self.ends
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=self._padding, eos_token_id=ends
        )
        # What these settings leave open, transformers takes from the model's own; so a model without any, of the same
        # modules, decodes.
        plain = copy.copy(self.model)
        plain.generation_config = GenerationConfig()
        with torch.no_grad():
            inputs = self.inputs(pixels, tokens)
            length = inputs["input_ids"].shape[1]
            output = plain.generate(**inputs, generation_config=settings)
        said = [list(takewhile(lambda token: token not in ends, row)) for row in output[:, length:].tolist()]
        texts: list[str] = self.tokenizer.batch_decode(said, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        texts = {"chat_template.jinja": self.template}
        save_parts(Path(folder), self.model, self.processor, self.tokenizer, dtype, texts)


def generative(model: VLM) -> Generative:
    """The model, if it generates text.

    Raises:
        ModelError: it does not.
    """
    if isinstance(model, Generative):
        return model
    raise ModelError(f"{model.name} has no language model; this needs a LLaVA or Qwen-VL")


def chat_template(source: str | Path, *given: Any, default: str, local: bool = False) -> str:
    """The chat template of a model: a processor's or tokenizer's, the one beside the weights, or the family's own.

    Args:
        source: folder or name on the hub; empty where a model object came from none.
        given: the processor and the tokenizer, or None.
        default: of the family.
        local: whether the hub is not asked.

    Raises:
        ModelError: there are several templates, and none of them is the default.
    """
    for each in given:
        if template := getattr(each, "chat_template", None):
            return _one_template(template)
    if source:
        from transformers.utils.hub import cached_file

        for file in _TEMPLATE_FILES:
            path = None
            with suppress(OSError, ValueError) if local else nullcontext():  # the folder, or the cache of the hub
                path = cached_file(source, file, local_files_only=local, _raise_exceptions_for_missing_entries=False)
            if path is not None:
                text = Path(path).read_text(encoding="utf-8")
                return _one_template(json.loads(text)["chat_template"]) if file.endswith(".json") else text
    return default


def _one_template(template: object) -> str:
    """A template, or the default one of several by name."""
    if isinstance(template, Mapping):
        if "default" not in template:
            raise ModelError(f"of several chat templates ({', '.join(map(str, template))}) none is called default")
        template = template["default"]
    return str(template)
