"""lm-evaluation-harness: an adapted model in its tasks with images, from Python or as its model type ``radapt``.

::

    python -m radapt.harness --model radapt --model_args pretrained=micro/llava,adapter=my-adapter --tasks chartqa
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from radapt.adapters import Adapter
from radapt.errors import InputError, SettingsError, shown
from radapt.models import VLM, generative, load
from radapt.numbers import check_batch_size, whole

__all__ = ["harness_model", "main"]

_PLACE = "<image>"
"""Stands for an image in the prompts of tasks."""
_LONGEST = 256
_IGNORED = {"max_batch_size", "trust_remote_code"}
"""What the harness gives to every model, and is for its own ones."""


def harness_model(
    model: str | Path | VLM, adapter: str | Path | Adapter | None = None, *, batch_size: int | str = 1, **settings: Any
) -> Any:
    """A model as lm-evaluation-harness takes it, with an adapter on it: ``lm_eval.simple_evaluate(model=...)``.

    For tasks with images of ``output_type: generate_until``: one image and one turn per prompt. Images are prepared,
    and prompts put into the chat template, as everywhere in this library; decoding is greedy.

    Args:
        model: a LLaVA or Qwen-VL, or its name.
        adapter: the adapter, or its folder or name; it stays on the model. None: the model as it is.
        batch_size: images per pass.
        settings: what else :func:`radapt.load` takes (``device``, ``dtype``...).

    Raises:
        SettingsError: the package is missing, or a setting is unknown.
        ModelError: the model cannot be loaded, or has no language model.
        AdapterError: there is no such adapter, or it is for another kind of model.
    """
    return _model_type()(pretrained=model, adapter=adapter, batch_size=batch_size, **settings)


class _Model:
    """What the harness asks of a model; its own base class joins in where it is known."""

    MULTIMODAL = True

    def __init__(
        self,
        pretrained: str | Path | VLM,
        adapter: str | Path | Adapter | None = None,
        batch_size: int | str = 1,
        **settings: Any,
    ) -> None:
        super().__init__()
        size = int(batch_size) if str(batch_size).isdecimal() else batch_size
        check_batch_size(size)
        self.batch_size = int(size)
        given = {name: each for name, each in settings.items() if name not in _IGNORED}
        if given and isinstance(pretrained, VLM):
            raise SettingsError(f"{', '.join(given)} would have no effect on a model that is loaded; leave it out")
        self.model = generative(pretrained if isinstance(pretrained, VLM) else load(pretrained, **given))
        self.adapter = adapter if isinstance(adapter, Adapter | None) else Adapter.from_pretrained(adapter)
        if self.adapter is not None:
            self.adapter.attach(self.model)

    @property
    def tokenizer_name(self) -> str:
        """Name of what makes prompts, for the harness's cache."""
        return f"radapt/{self.model.name}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template that every prompt is put into."""
        return str(self.model.template)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a user's turn, which is put into the template later.

        Raises:
            InputError: there are several turns, such as examples or a system prompt.
        """
        if len(chat_history) != 1 or chat_history[0]["role"] != "user":
            roles = ", ".join(each["role"] for each in chat_history)
            raise InputError(f"a prompt is one turn of the user, got {roles}; leave out few-shot and system prompts")
        return chat_history[0]["content"]

    def get_model_info(self) -> dict[str, object]:
        """What the harness writes beside its results."""
        fingerprint = "" if self.adapter is None else self.adapter.fingerprint
        return {"model_name": self.model.name, "adapter": fingerprint, "model_dtype": str(self.model.dtype)}

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers to prompts about images, by greedy decoding, each cut where a task says so.

        Raises:
            InputError: a prompt has no image, or several.
            SettingsError: a task asks for another decoding.
        """
        answers: list[str] = []
        for batch in self._batches(requests):
            _, _, longest, until = batch[0]
            pixels = [self.model.preprocess(image) for image, _, _, _ in batch]
            stacked = torch.stack(pixels).to(self.model.device)
            for said in self.model.generate(stacked, [prompt for _, prompt, _, _ in batch], max_new_tokens=longest):
                answers.append(_cut(said, until))
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args[:2], answer)  # type: ignore[attr-defined]
        return answers

    def _batches(self, requests: Sequence[Any]) -> Iterator[list[tuple[Any, str, int, tuple[str, ...]]]]:
        """Requests that go through the model together: neighbours of one decoding and one size."""
        batch: list[tuple[Any, str, int, tuple[str, ...]]] = []
        for request in requests:
            each = _request(*request.args)
            same = batch and batch[0][2:] == each[2:] and batch[0][0].size == each[0].size
            if batch and (not same or len(batch) == self.batch_size):
                yield batch
                batch = []
            batch.append(each)
        if batch:
            yield batch

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Refused: with images, the harness's own models have none either.

        Raises:
            SettingsError: always.
        """
        raise SettingsError("log-likelihoods are not given; take a task with images of output_type generate_until")

    loglikelihood_rolling = loglikelihood


def _request(context: str, decoding: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Any:
    """Image, prompt, most tokens and ends of a request."""
    found = (more or {}).get("visual") or []
    images = list(found) if isinstance(found, list | tuple) else [found]
    if len(images) != 1:
        raise InputError(f"a prompt has one image, got {len(images)} with {shown(context)}")
    settings = dict(decoding)
    until = settings.pop("until", None) or ()
    longest = settings.pop("max_gen_toks", _LONGEST)
    whole("max_gen_toks", longest)
    if settings.pop("do_sample", False) or settings.pop("temperature", 0):
        raise SettingsError(f"decoding is greedy, but the task asks for {shown(dict(decoding))}")
    settings.pop("temperature", None)
    if settings:
        raise SettingsError(f"decoding is greedy; {', '.join(settings)} would have no effect")
    ends = (until,) if isinstance(until, str) else tuple(until)
    return images[0], context.replace(_PLACE, "").strip(), longest, ends


def _cut(text: str, until: Sequence[str]) -> str:
    for end in filter(None, until):
        text = text.partition(end)[0]
    return text


@cache
def _model_type() -> Any:
    """The model type of the harness, under the name ``radapt``.

    Raises:
        SettingsError: the package is missing.
    """
    try:
        api: Any = importlib.import_module("lm_eval.api.model")
        registry: Any = importlib.import_module("lm_eval.api.registry")
    except ImportError as error:
        raise SettingsError('this needs lm-evaluation-harness: pip install "radapt[harness]"') from error
    importlib.import_module("lm_eval.models")  # its own types, which it looks for only where there are none yet
    return registry.register_model("radapt")(type("RAdaptModel", (_Model, api.LM), {}))


def main() -> None:
    """The command line of lm-evaluation-harness, which then knows the model type ``radapt``."""
    _model_type()
    importlib.import_module("lm_eval.__main__").cli_evaluate()


if __name__ == "__main__":
    main()
