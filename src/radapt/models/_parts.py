"""Parts of a vision encoder by name: what fine-tuning trains, and what replacement takes from a twin."""

from __future__ import annotations

import re

from torch import Tensor

from radapt.errors import SettingsError, shown
from radapt.registry import nearest

from ._vlm import VLM

__all__ = ["parts"]

_WHOLE = ("all", "embedding", "head")
_RANGED = ("attention", "block", "deep")
_RANGE = re.compile(r"(\d{1,9})(-(\d{0,9}))?")


def parts(model: VLM, text: str) -> dict[str, Tensor]:
    """Parameters of the image embedding in chosen parts of the vision encoder, by name and in their own order.

    Parts are joined by ``+``:

    - ``all``;
    - ``embedding``: what comes before the blocks (patches, class token, positions, the norm before the first block);
    - ``block:0``, ``block:0-2``: blocks, the last one included;
    - ``attention:0``, ``attention:0-2``: the self-attention of blocks alone;
    - ``deep:6-``: blocks 6 to the last, and the head;
    - ``head``: what comes after the blocks (the last norm, pooling, projection).

    Args:
        model: the model.
        text: the parts, such as ``embedding+block:0``.

    Raises:
        SettingsError: an unknown part, or blocks that do not exist.
    """
    if not isinstance(text, str):
        raise SettingsError(f"parts of a vision encoder are one text, such as embedding+block:0-1, got {shown(text)}")
    parameters = model.image_parameters()
    where = _places(model, parameters)
    chosen: set[str] = set()
    for part in text.split("+"):
        kind, colon, range_ = part.strip().partition(":")
        if kind in _RANGED and colon:
            chosen |= _ranged(model, where, kind, range_, part)
        elif kind in _WHOLE and not colon:
            chosen |= {name for name, (place, _) in where.items() if kind in ("all", place)}
        else:
            known = [*_WHOLE, *(f"{name}:0" for name in _RANGED)]
            raise SettingsError(f"unknown part {part.strip()!r} of a vision encoder{nearest(part.strip(), known)}")
    if not chosen:
        raise SettingsError(f"{text!r} selects nothing of {model.name}")
    return {name: parameter for name, parameter in parameters.items() if name in chosen}


def _places(model: VLM, parameters: dict[str, Tensor]) -> dict[str, tuple[str, int]]:
    """For each parameter ``embedding``, ``block`` or ``attention`` with the block's number, or ``head``.

    What blocks share is the first one's.
    """
    tower, owner = model.tower, dict[int, tuple[str, int]]()
    for number, block in reversed(list(enumerate(tower.blocks))):
        owner |= {id(parameter): ("block", number) for parameter in block.parameters()}
        owner |= {id(parameter): ("attention", number) for parameter in tower.attention_of(number).parameters()}
    named = {id(parameter): name for name, parameter in tower.root.named_parameters()}
    places, in_blocks = dict[str, tuple[str, int]](), False
    # Encoders define their parts in the order in which images pass them, but for what the tower says.
    for name, parameter in parameters.items():
        in_blocks = in_blocks or id(parameter) in owner
        late = in_blocks or named.get(id(parameter), "").startswith(tower.head)
        places[name] = owner.get(id(parameter), ("head" if late else "embedding", -1))
    return places


def _ranged(model: VLM, where: dict[str, tuple[str, int]], kind: str, range_: str, part: str) -> set[str]:
    last = len(model.tower.blocks) - 1
    match = _RANGE.fullmatch(range_)
    if not match:
        raise SettingsError(f"{part!r}: write blocks as 0, 0-2 or 6-; {model.name} has blocks 0 to {last}")
    first, end = int(match[1]), int(match[3] or last) if match[2] else int(match[1])
    if kind == "deep":
        if match[2] != "-":
            raise SettingsError(f"{part!r}: deep goes on to the last block; write deep:{first}-")
        end = last
    if not 0 <= first <= end <= last:
        raise SettingsError(f"{part!r}: {model.name} has blocks 0 to {last}, from the lower to the higher")
    kinds = ("attention",) if kind == "attention" else ("attention", "block")
    inside = {name for name, (place, number) in where.items() if place in kinds and first <= number <= end}
    return inside | {name for name, (place, _) in where.items() if kind == "deep" and place == "head"}
