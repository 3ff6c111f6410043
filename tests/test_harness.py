"""An adapted model under lm-evaluation-harness: what the bridge answers, and a whole task of the harness itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import radapt
from radapt import harness
from radapt.errors import AdapterError, InputError, ModelError, SettingsError
from radapt.models import VLM

N = 6
TASK = """
task: shapes-here
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_image: !function here.image
doc_to_text: "<image>{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 5}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CODE = """
from PIL import Image


def image(doc):
    return [Image.open(doc["image"])]
"""


class Model(harness._Model):
    """The bridge alone, where the harness is not installed."""

    def __init__(self, *given: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.kept: list[Any] = []
        self.cache_hook = SimpleNamespace(add_partial=lambda *given: self.kept.append(given))


@pytest.fixture(scope="module")
def llava() -> VLM:
    return radapt.load("micro/llava")


@pytest.fixture
def bare(llava: VLM) -> Iterator[VLM]:
    """The model, which is bare again afterwards."""
    yield llava
    radapt.detach(llava)


@pytest.fixture(scope="module")
def asked() -> list[tuple[Image.Image, str, str]]:
    """Images, questions and right answers."""
    data = radapt.load_dataset("shapeworld-vqa", n=N)
    found = []
    for at in range(N):
        question, answer, *_ = data.questions[at][at % len(data.questions[at])]
        found.append((Image.fromarray(data.images[at]), data.prompt(question), answer))
    return found


def requests(asked: list[tuple[Image.Image, str, str]], **decoding: Any) -> list[Any]:
    settings = {"until": ["\n"], "max_gen_toks": 5, **decoding}
    return [SimpleNamespace(args=(f"<image>{text}", settings, {"visual": [image]})) for image, text, _ in asked]


def adapter(model: VLM) -> radapt.Adapter:
    return radapt.training_free(model, alpha=3.0, cutoff=0.05)  # far too much, so that answers change


@pytest.mark.parametrize("batch_size", [1, "4"])
def test_answers_are_those_of_the_adapted_model(bare: VLM, asked: Any, batch_size: Any) -> None:
    pixels = torch.stack([bare.preprocess(image) for image, _, _ in asked])
    texts = [text for _, text, _ in asked]
    own = bare.generate(pixels, texts, max_new_tokens=5)  # type: ignore[attr-defined]
    assert Model(bare, batch_size=batch_size).generate_until(requests(asked)) == own
    worn = adapter(bare)
    with worn.attach(bare):
        adapted = bare.generate(pixels, texts, max_new_tokens=5)  # type: ignore[attr-defined]
    assert adapted != own
    under = Model(bare, worn, batch_size=batch_size)
    assert under.generate_until(requests(asked)) == adapted
    assert [answer for _, _, answer in under.kept] == adapted
    assert under.get_model_info()["adapter"] == worn.fingerprint


def test_answers_are_cut_where_the_task_says_so(bare: VLM, asked: Any) -> None:
    model = Model(bare)
    (whole,) = model.generate_until(requests(asked[:1]))
    assert len(whole) > 2
    assert model.generate_until(requests(asked[:1], until=[whole[2], "", "~"])) == [whole.partition(whole[2])[0]]
    assert model.generate_until(requests(asked[:1], until=whole)) == [""]


def test_images_of_several_sizes_go_one_after_the_other(bare: VLM, asked: Any) -> None:
    sizes = [(image.resize((40 + 20 * (at % 2), 48)), *rest) for at, (image, *rest) in enumerate(asked)]
    alone = Model(bare).generate_until(requests(sizes))
    assert Model(bare, batch_size=4).generate_until(requests(sizes)) == alone


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (("text", {}), InputError, "a prompt has one image, got 0 with 'text'"),
        (("text", {}, {"visual": ["a", "b"]}), InputError, "a prompt has one image, got 2"),
        (("text", {"do_sample": True}, {"visual": ["a"]}), SettingsError, "decoding is greedy"),
        (("text", {"temperature": 0.7}, {"visual": ["a"]}), SettingsError, "decoding is greedy"),
        (("text", {"num_beams": 3}, {"visual": ["a"]}), SettingsError, "num_beams would have no effect"),
        (("text", {"max_gen_toks": 0}, {"visual": ["a"]}), SettingsError, "max_gen_toks"),
    ],
)
def test_what_a_task_cannot_have_is_refused(bare: VLM, args: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Model(bare).generate_until([SimpleNamespace(args=args)])


def test_several_turns_and_likelihoods_are_refused(bare: VLM) -> None:
    model = Model(bare)
    user = {"role": "user", "content": "<image>what?"}
    assert model.apply_chat_template([user]) == "<image>what?"
    with pytest.raises(InputError, match="one turn of the user, got system, user"):
        model.apply_chat_template([{"role": "system", "content": "x"}, user])
    with pytest.raises(SettingsError, match="output_type generate_until"):
        model.loglikelihood([])


def test_wrong_models_adapters_and_settings_are_refused(bare: VLM, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no language model"):
        Model("micro/clip")
    with pytest.raises(AdapterError, match="nowhere"):
        Model(bare, tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="dtype would have no effect on a model that is loaded"):
        Model(bare, dtype="float16")
    with pytest.raises(SettingsError, match="batch"):
        Model(bare, batch_size="auto")


def test_without_the_package_a_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(SettingsError, match=r'pip install "radapt\[harness\]"'):
        harness._model_type.__wrapped__()


@pytest.fixture
def task(asked: Any, tmp_path: Path) -> Path:
    """A folder with a task of one's own: its YAML file, its images, its questions."""
    lines = []
    for at, (image, question, answer) in enumerate(asked):
        image.save(tmp_path / f"{at}.png")
        lines.append({"image": str(tmp_path / f"{at}.png"), "question": question, "answer": answer})
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "here.py").write_text(CODE)
    (tmp_path / "here.yaml").write_text(TASK.format(folder=tmp_path))
    return tmp_path


def said(model: VLM, asked: Any) -> tuple[list[str], float]:
    """The model's own answers, and how many of them are right."""
    texts = [model.generate(model.preprocess(image)[None], [text], max_new_tokens=5)[0] for image, text, _ in asked]  # type: ignore[attr-defined]
    return texts, sum(text == truth for text, (_, _, truth) in zip(texts, asked, strict=True)) / N


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what it imports warns about itself
@pytest.mark.parametrize("name", ["micro/llava", "micro/qwen-vl"])
def test_a_task_of_the_harness_gives_the_model_s_own_accuracy(
    name: str, asked: Any, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval
    import lm_eval.__main__
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(task / "cache"))
    tasks = TaskManager(include_path=str(task), include_defaults=False)
    model = radapt.load(name)
    worn = adapter(model)
    worn.save_pretrained(task / "adapter")
    typed = {"pretrained": name, "adapter": f"{task}/adapter", "device": "cpu"}

    def runs() -> None:
        """What the command line does with its words."""
        words = ",".join(f"{key}={value}" for key, value in typed.items())
        given = {"": harness.harness_model(model, batch_size=4), worn.fingerprint: "radapt"}
        for fingerprint, each in given.items():
            more = {"model_args": words, "batch_size": 4} if isinstance(each, str) else {}
            found = lm_eval.simple_evaluate(
                model=each, tasks=["shapes-here"], task_manager=tasks, log_samples=True, **more
            )
            with worn.attach(model) if fingerprint else nullcontext():
                texts, right = said(model, asked)
            assert found["results"]["shapes-here"]["exact_match,none"] == pytest.approx(right)
            assert [sample["resps"][0][0] for sample in found["samples"]["shapes-here"]] == texts
            assert found["config"]["adapter"] == fingerprint

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", runs)
    harness.main()  # which makes the model type known first
