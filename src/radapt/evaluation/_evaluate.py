"""Evaluation: every candidate on every dataset, clean and under every threat, into a results file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from radapt.attacks import Attack
from radapt.errors import SettingsError, shown
from radapt.io import check_writable, expanded
from radapt.numbers import check_batch_size, check_seed, whole
from radapt.precision import own_precision
from radapt.results import WORST_CASE, Result, Results, Run, take_over, with_worst_cases
from radapt.types import Executor, Norm, Split

from ._bench import Bench
from ._candidates import CandidateLike, ModelLike, Models
from ._cost import Cost, costs_of
from ._executor import check_executor, crew
from ._inputs import DEFAULT_ATTACK, DataLike
from ._ledger import Ledger
from ._loading import check_loading
from ._pace import progress
from ._plan import Request
from ._ray import Crew
from ._threat import Threat
from ._units import Unit

__all__ = ["estimate_cost", "evaluate"]


@own_precision()
def evaluate(
    candidates: Sequence[CandidateLike] | Mapping[str, CandidateLike] | CandidateLike,
    *,
    data: DataLike | Sequence[DataLike],
    attack: str | Attack | Sequence[str | Attack] | None = DEFAULT_ATTACK,
    eps: float | str | Sequence[float | str] | None = None,
    norm: Norm | None = None,
    source: str | Sequence[str] | None = None,
    options: Mapping[str, object] | None = None,
    threats: Sequence[Threat] | None = None,
    results: str | Path | Results = "results.sqlite",
    reuse: str | Path | Sequence[str | Path] = (),
    transferred: str | Path | None = None,
    undefended: ModelLike | None = None,
    task: str | None = None,
    target: str | None = None,
    n: int | None = None,
    split: Split = "test",
    balanced: bool = False,
    seed: int = 0,
    batch_size: int = 32,
    chunk_size: int = 128,
    shard: str | None = None,
    sanity: bool = True,
    executor: Executor = "local",
    workers: int | None = None,
    resources: Mapping[str, float] | None = None,
    models: Models | None = None,
    quiet: bool = False,
    **loading: Any,
) -> list[Result]:
    """Evaluate candidates on datasets, clean and under attack; what the results file holds already is not redone.

    Images for a transfer threat are made against its source with the whole budget (no early stop) and shared by all
    candidates; a white-box attack (``source="self"``) differentiates through the candidate's defence. What a model does
    to itself is no transfer: a candidate that turns out to be its own source is attacked white-box, if it is not
    already. Samples that a candidate gets wrong without any attack are not attacked, from any source.

    Args:
        candidates: the lines of the report: one, a list, or a mapping by label, of :class:`Candidate`, models (names,
            objects, or any classifier from pixels to logits), or pairs of a model and its defence. A text is
            ``[LABEL=]MODEL[+ADAPTER]``, as on the command line.
        data: one or several datasets, by name, as the path of a card, or as objects; each sample of each is used, for
            the task that is on its card. A :class:`Task` says both.
        attack: name of the attack, or the attack itself, with its own settings; or several; None: clean results only.
        eps: one or several radii in pixel units, as numbers or texts such as ``4/255``; None: 4/255.
        norm: ``linf`` or ``l2``; None: ``linf``.
        source: whose gradients make the attack, one or several: ``self`` (white-box), ``undefended`` (transfer), or
            the label of a candidate (transfer); None: ``undefended`` and ``self``.
        options: other settings of the attack; of several attacks, those of all, and ``{"square.steps": 5000}`` of one.
        threats: instead of ``attack``, ``eps``, ``norm``, ``source`` and ``options``: attacks with their sources.
        results: a results file, open or by its path; rows are committed chunk by chunk.
        reuse: another results file, or several, which are only read: what they hold of the same results, on the same
            weights and images, is copied and not measured again. A result of more samples serves for fewer.
        transferred: folder in which images for a transfer threat are kept, chunk by chunk, and found again by any
            evaluation of the same chunks, in the same batches, under the same attack on the same source; None: each
            evaluation makes its own. An image takes 12 bytes per pixel.
        undefended: what ``source="undefended"`` means; by default each candidate's model without its defence.
        task: what the datasets are used for, by name; by default what their cards say.
        target: a sentence that attacks drive generative models to say; results are then the share that does not say it.
        n, split, balanced: samples of each dataset by name, its split, and whether its classes come in turn (see
            :func:`radapt.load_dataset`).
        seed: seed of the per-sample random numbers.
        batch_size: images per pass of the model at most; at another one, and with another number of threads or on
            another device, the last bits of a result differ.
        chunk_size: samples that are attacked together and committed at once. A result is the same bit for bit whatever
            the order of its chunks, and whether one process measures them all, several do, or one that was resumed.
        shard: ``i/k``: measure the ``i``-th of ``k`` parts of the chunks only, and run no sanity checks. Each part goes
            into a file of its own; :meth:`radapt.Results.merge` puts them together.
        sanity: run the sanity checks and store their flags.
        executor: ``local``: this process measures; ``ray``: workers of Ray do, on the cluster that this process is
            connected to, that ``RAY_ADDRESS`` names, or that is started here. They read models and data by name
            themselves (objects are sent to them); this process writes. Results are the same bit for bit where each
            worker computes with as many threads, on the same kind of device.
        workers: of Ray; None: as many as there is room for.
        resources: that each worker takes, such as ``{"GPU": 0.5, "CPU": 4}``; None: one GPU where ``device`` is one,
            else one CPU.
        models: loads models by name, where several calls are to share them.
        quiet: no progress bar.
        loading: ``device``, ``dtype`` and whatever else :func:`radapt.load` takes, for models by name.

    Returns:
        The results of this plan, in order, and after them the worst case over all attacks that the file holds, wherever
        one white-box attack is not all that is known of a ball: that is the robust accuracy.

    Raises:
        SettingsError: nothing to evaluate, two candidates of one name or with the same results, a candidate that is
            called like a source, a model that carries an adapter already, an unknown source, or a dataset of a task
            that cannot be evaluated; a shard that is not of the form ``i/k``; or an unknown keyword, or one of
            :func:`radapt.load` where no model is loaded with it.
        InputError: a model puts out nothing that is a number.
        CheckError: of Ray: workers died again and again, or found other models or data than were planned with.
    """
    _check_numbers(batch_size, chunk_size, seed)
    part = (0, 1) if shard is None else _part(shard)
    check_loading(evaluate, loading, (candidates, undefended), models)
    check_executor(executor, workers, resources, loading)
    for path in _files(reuse):
        Results(path, read_only=True).close()  # what cannot be read is said before anything is loaded
    request = Request(
        candidates=candidates,
        data=data,
        attack=attack,
        eps=eps,
        norm=norm,
        source=source,
        options=options,
        threats=threats,
        undefended=undefended,
        task=task,
        target=target,
        n=n,
        split=split,
        balanced=balanced,
        seed=seed,
        batch_size=batch_size,
        chunk_size=chunk_size,
        quiet=quiet,
        transferred=_folder(transferred),
        loading=loading,
    )
    loader = models or Models(loading)
    with ExitStack() as stack:
        bench: Bench | Crew = (
            Bench(request, loader)
            if executor == "local"
            else stack.enter_context(crew(replace(request, loading=loader.settings), workers, resources))
        )
        units = bench.units()
        file = results if isinstance(results, Results) else stack.enter_context(Results(results))
        _take_over(file, units, reuse)
        ledger = Ledger(file, units, part, sanity and shard is None)
        if reuse or any(ledger.left(unit) or ledger.due(unit) for unit in units):
            file.notes.add_run(Run.now(device=_device(bench, loader)))
            file.notes.add_adapters({unit.setting.adapter: unit.adapter for unit in units if unit.adapter})
        with progress(units, quiet) as advance:
            bench.run(units, ledger, advance)
        return _results_of(units, file)


def estimate_cost(
    candidates: Sequence[CandidateLike] | Mapping[str, CandidateLike] | CandidateLike,
    *,
    results: str | Path = "results.sqlite",
    reuse: str | Path | Sequence[str | Path] = (),
    models: Models | None = None,
    **settings: Any,
) -> Cost:
    """What :func:`evaluate` would cost on this device, result by result, from a probe that takes seconds.

    The probe times passes of every model, and attacks 16 samples of every dataset white-box: with the attack itself
    where that is short, else with ``apgd-ensemble``; those that stand are counted with all passes of the attack.

    Args:
        candidates: as for :func:`evaluate`.
        results: the results file; what it holds costs nothing. It need not exist, and is not written.
        reuse: other results files; what they hold costs nothing either.
        models: as for :func:`evaluate`.
        settings: what else :func:`evaluate` takes.

    Raises:
        RadaptError: as of :func:`evaluate`.
    """
    taken = inspect.signature(evaluate).parameters
    if useless := [name for name in ("shard", "executor", "workers", "resources") if settings.get(name) is not None]:
        raise SettingsError(f"{useless[0]} has no part in a cost on this device; leave it out, or divide the seconds")
    own = {name: value for name, value in settings.items() if name in taken and name != "loading"}
    loading = {name: value for name, value in settings.items() if name not in own}
    check_loading(evaluate, loading, (candidates, own.get("undefended")), models)
    asked = {
        entry.name: own.get(entry.name, taken[entry.name].default)
        for entry in fields(Request)
        if entry.name not in ("candidates", "loading")
    }
    if asked["data"] is inspect.Parameter.empty:
        raise SettingsError("nothing to evaluate: give at least one candidate and one dataset")
    _check_numbers(asked["batch_size"], asked["chunk_size"], asked["seed"])
    asked["transferred"] = _folder(asked["transferred"])
    request = Request(candidates=candidates, **asked, loading=loading)
    bench = Bench(request, models or Models(loading))
    with ExitStack() as stack:
        there = [results] if expanded(results).exists() else []
        files = [stack.enter_context(Results(path, read_only=True)) for path in (*there, *_files(reuse))]

        def done(unit: Unit) -> set[int]:
            return set[int]().union(*(file.done(unit.setting, unit.digests) for file in files))

        def checked(unit: Unit) -> int:
            return max((file.checked(unit.setting) for file in files), default=0)

        return costs_of(
            bench, done, checked, batch_size=request.batch_size, seed=request.seed, sanity=own.get("sanity", True)
        )


def _check_numbers(batch_size: int, chunk_size: int, seed: int) -> None:
    check_batch_size(batch_size)
    whole("chunk_size", chunk_size)
    check_seed(seed)


def _files(reuse: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """The results files that are to be read, given as one path or several."""
    files = [reuse] if isinstance(reuse, str | Path | Results) or reuse is None else list(reuse)
    for each in files:
        if not isinstance(each, str | Path):
            raise SettingsError(f"reuse takes the paths of results files, got {shown(each)}; leave it out for none")
    return files


def _folder(transferred: object) -> Path | None:
    """The folder of transferred images, wherever it is looked at from."""
    if transferred is None:
        return None
    if not isinstance(transferred, str | Path) or not str(transferred):
        raise SettingsError(f"transferred takes the path of a folder, got {shown(transferred)}; leave it out for none")
    return check_writable(transferred, folder=True).absolute()


def _take_over(file: Results, units: Sequence[Unit], reuse: str | Path | Sequence[str | Path]) -> None:
    """Copy what other files hold of these units."""
    for path in _files(reuse):
        with Results(path, read_only=True) as other:
            for unit in units:
                for setting in (unit.setting, unit.found):
                    take_over(file, setting, unit.digests, other)


def _device(bench: Bench | Crew, loader: Models) -> str:
    """What the models compute on, for the notes."""
    name = str(loader.settings.get("device_map") or loader.settings.get("device", "cpu"))
    if name.startswith("cuda") and torch.cuda.is_available():
        name += f" ({torch.cuda.get_device_name()})"
    return name if isinstance(bench, Bench) else f"{name}, workers of Ray"


def _results_of(units: Sequence[Unit], results: Results) -> list[Result]:
    """The results of a plan, in order, and the worst cases of what was attacked white-box."""
    keys = {unit.setting.key: i for i, unit in enumerate(units)}
    every = with_worst_cases(results)
    found = [result for result in every if result.setting.key in keys]
    asked = {result.setting.ball for result in found if result.kind == "white-box"}
    worst = [r for r in every if r.setting.attack == WORST_CASE and r.setting.ball in asked]
    return [*sorted(found, key=lambda result: keys[result.setting.key]), *worst]


def _part(shard: str) -> tuple[int, int]:
    """Number, from 0 on, and count of ``i/k``."""
    number, slash, count = str(shard).partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number[:9]) <= int(count[:9])):
        raise SettingsError(f"a shard is i/k, the i-th of k parts, such as 1/3, 2/3 and 3/3; got {shown(shard)}")
    return int(number) - 1, int(count)
