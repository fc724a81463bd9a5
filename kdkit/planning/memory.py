"""The memory of a language model's distillation: what each phase holds at its fullest moment.

Phases are those of a run: a teacher that is built here, its answers where they are cached, the student. Two moments of
a step compete: the end of the loss, when all activations are there, and the end of the backward pass, when all
gradients are; with more than one micro-batch in a step the gradients are there from the second one on.
"""

from dataclasses import replace

import torch

from kdkit.config.language import BUILD, Config
from kdkit.config.losses import Auto, OverlapKL, ProjectedKL
from kdkit.data.build import teacher_max_length
from kdkit.distill.choose_loss import compares_events
from kdkit.losses.chunked.engine import BLOCK_BYTES, rows_per_chunk
from kdkit.models.built.size import FP32, ModelSize
from kdkit.planning.devices import Device
from kdkit.planning.items import Item, Phase, backward_bytes, forward_bytes, fullest, kept_by_layers
from kdkit.planning.pair import Pair
from kdkit.planning.shapes import Shapes, language_shapes

OPTIMIZERS = {
    "adamw": ("AdamW", 0.0),
    "muon": ("Muon and AdamW", FP32),
    # two means in a byte each, and a scale in fp32 for every 256 numbers of both
    "adamw_8bit": ("AdamW in 8 bits", 2 * (FP32 - 1 - FP32 / 256)),
}
"""Name, and the bytes that it saves of a number that is no embedding's, against AdamW."""
SPAN_BUFFERS = 6
"""Buffers of the size of a chunk's logits that autograd keeps for a loss over spans."""
STATE_BUFFERS = 6
"""Buffers of the teacher's width that the comparison of one pair of states holds in its backward pass."""
MAP_BUFFERS = 9
"""Buffers of `[S, S]` that the comparison of one pair of attention maps holds in it, with the pooling."""
TEACHER_MAPS = "teacher: attention maps"


def plan_memory(config: Config, device: Device) -> list[Phase]:
    """Return the phases of a run, in their order.

    Raises:
        UserError: see `read_shapes`.
    """
    members = [config.view(member.name) for member in config.teachers.members] or [config]
    pairs = [Pair(view, device, *language_shapes(view)) for view in members]
    phases = []
    for pair in pairs:
        name = f" {pair.config.teachers.only}" if pair.config.teachers.only else ""
        if pair.config.teacher.path == BUILD:
            phases.append(_built_teacher(pair, f"teacher{name} is trained here"))
        if pair.config.cache.enabled:
            phases.append(_answers(pair, f"teacher{name}'s answers are kept"))
    return [*phases, _student(pairs)]


def _base(device: Device, places: list[str]) -> list[Item]:
    name = "Python and libraries" if set(places) == {"cpu"} else "CUDA context"
    return [Item(place, name, device.base_bytes) for place in dict.fromkeys(places)]


def workspace(device: Device) -> list[Item]:
    """List what a training on a CPU takes beside its tensors."""
    size = device.workspace_bytes
    return [Item(device.hardware.device, "kernels, threads and small objects", size)] if size else []


def trained_items(place: str, size: ModelSize, optimizer: str = "adamw") -> list[Item]:
    """List weights and the optimizer's means of a model in training."""
    inner = size.parameters - size.embeddings
    name, saved = OPTIMIZERS[optimizer]
    means = size.optimizer - round(saved * inner)
    return [Item(place, "student: weights", size.weights), Item(place, f"student: {name}", means)]


def _built_teacher(pair: Pair, name: str) -> Phase:
    """Plan the training of a teacher that is built here; a mixture's loss makes all logits at once."""
    build, hardware = pair.config.teacher.build, pair.device.hardware
    tokens = build.batch_size * teacher_max_length(pair.config)
    size = pair.teacher.measure(build.batch_size, teacher_max_length(pair.config), pair.half)
    items = [*_base(pair.device, [hardware.device]), *workspace(pair.device)]
    items += [
        Item(hardware.device, item.name.replace("student", "teacher"), item.bytes)
        for item in trained_items(hardware.device, size, build.optimizer)
    ]
    kept = kept_by_layers(hardware.device, size, pair.teacher.layers, pair.teacher.width, tokens, False)
    if build.num_experts:
        # logits, and of cross-entropy in fp32 the log-probabilities and the gradient
        logits = tokens * pair.teacher.vocab_size * FP32
        loss = [Item(hardware.device, "all logits, log-probabilities and gradient", 3 * logits)]
    else:
        loss = _chunks(hardware.device, pair, pair.teacher.vocab_size, 0)
        loss += _head(hardware.device, pair, pair.teacher, tokens)
    backward = [_backward(hardware.device, pair, pair.teacher, tokens)]
    kept += fullest([], loss, backward)
    items = fullest(items, kept, [Item(hardware.device, "teacher: gradients", size.gradients)])
    return Phase(name, tuple(items))


def _backward(place: str, pair: Pair, shapes: Shapes, tokens: int) -> Item:
    """Return what the backward pass of a layer takes beside what was kept for it."""
    size = backward_bytes(tokens, shapes.width, shapes.inner, 2 if pair.half else FP32)
    return Item(place, "backward pass of a layer", size)


def _answers(pair: Pair, name: str) -> Phase:
    """Plan the asking of a teacher whose answers are cached."""
    place = pair.device.hardware.teacher_device
    rows = rows_per_chunk(pair.teacher.vocab_size, torch.device(place))
    chunk = Item(place, "logits of a chunk, and its softmax", 2 * FP32 * rows * pair.teacher.vocab_size)
    return Phase(name, (*_base(pair.device, [place]), *_frozen(pair, place), *_forward(pair, place, False), chunk))


def _frozen(pair: Pair, place: str) -> list[Item]:
    """List a teacher's weights; one without a model of transformers counts by its shapes all the same."""
    size = pair.teacher.measure()
    return [Item(place, "teacher: weights", size.parameters * pair.teacher_bytes)]


def _forward(pair: Pair, place: str, with_maps: bool) -> list[Item]:
    """List what a teacher's forward pass holds."""
    shapes, tokens = pair.teacher, pair.teacher_tokens
    slots = shapes.text.to_dict().get("num_experts_per_tok") or 1
    size = forward_bytes(tokens, shapes.width, shapes.inner, pair.teacher_bytes, slots)
    if with_maps:  # scores, softmax in fp32 and its cast, which are gone when the feed-forward begins
        maps = tokens * teacher_max_length(pair.config) * shapes.heads * (FP32 + 2 * pair.teacher_bytes)
        size = max(size, maps + forward_bytes(tokens, shapes.width, 0, pair.teacher_bytes, 0))
    return [Item(place, "teacher: forward pass", size)]


def _student(pairs: list[Pair]) -> Phase:
    """Plan the training of the student with all its teachers."""
    pair, train = pairs[0], pairs[0].config.train
    hardware = pair.device.hardware
    here, there = hardware.device, hardware.teacher_device
    online = [each for each in pairs if each.is_online]
    maps = any("attention" in each.parts for each in online)
    size = pair.student.measure(pair.batch, pair.config.data.max_length, pair.half, maps=maps, fused=here != "cpu")
    items = [*_base(pair.device, [here, *([there] if online else [])]), *workspace(pair.device)]
    learning = size.parameters if pair.adapters is None else pair.adapters
    if pair.adapters is None:
        items += trained_items(here, size, train.optimizer)
    else:
        items += [Item(here, "student: weights", size.weights + FP32 * learning)]
        items += [Item(here, "student: AdamW of its adapters", 2 * FP32 * learning)]
    if train.average.kind != "none":
        items.append(Item(here, "average of the student's weights", size.weights))
    gradients = Item(here, "student: gradients", FP32 * learning)
    waiting, before, caught, compared, late = [], [], [], [], []
    for each in online:
        items += _frozen(each, there)
        waiting += _answered(each, here, there)
        before += _forward(each, there, "attention" in each.parts)
        caught += _caught(each, there)
        compared += _compared(each, here)
        late += _layer_gradients(each, here)
    for each in pairs:
        if each.config.cache.enabled:
            waiting.append(Item(here, "cached signals", _cached_bytes(each)))
    kept = kept_by_layers(
        here, size, pair.student.layers, pair.student.width, pair.student_tokens, train.gradient_checkpointing
    )
    rerun = late + kept[2:]
    wide = max([0, *(each.teacher.vocab_size for each in online)])
    waiting += _head(here, pair, pair.student, pair.student_tokens)
    loss = _chunks(here, pair, pair.student.vocab_size, wide)
    rerun.append(_backward(here, pair, pair.student, pair.student_tokens))
    last = [Item(here, "embeddings: gradient", pair.student.table_gradient)]
    if here == there:
        maps_there = [item for item in caught if item.name == TEACHER_MAPS]  # states go as they are pooled
        at_once = [before + caught, loss + caught, maps_there + compared, rerun, last]
    else:
        at_once, items = [loss, compared, rerun, last], items + before + caught
    moment = fullest(kept[:2] + waiting, *(group for group in at_once if group))
    if pair.accumulates:
        return Phase("the student is trained", (*items, gradients, *moment))
    counted = sum(item.bytes for item in moment if item.counted and item.place == here)
    first = counted >= gradients.bytes
    moment = [replace(item, counted=item.counted and (first or item.place != here)) for item in moment]
    return Phase("the student is trained", (*items, replace(gradients, counted=not first), *moment))


def _answered(pair: Pair, here: str, there: str) -> list[Item]:
    """List what a teacher leaves until the backward pass is over, and the projections to its width."""
    teacher, student, size = pair.teacher, pair.student, pair.teacher_bytes
    items = [Item(here, "teacher: last states", 2 * pair.teacher_tokens * teacher.width * size)]
    if here != there or not pair.same_tokenizer:
        items.append(Item(here, "teacher: its head, as the loss needs it", teacher.vocab_size * teacher.width * size))
    if pair.state_layers:
        projections = ("layerwise" in pair.parts) * len(pair.pairs)
        projections += sum(name in pair.parts for name in ("feature", "contrastive"))
        weights = 4 * FP32 * projections * student.width * teacher.width
        items.append(Item(here, "projections, their gradients and AdamW", weights))
    if "attention" in pair.parts and (pair.mean_heads or pair.config.train.gradient_checkpointing):
        numbers = len(pair.pairs) * pair.map_numbers * (1 if pair.mean_heads else student.heads)
        items.append(
            Item(here, "student: attention maps", numbers * (2 if pair.half and not pair.mean_heads else FP32))
        )
    return items


def _caught(pair: Pair, there: str) -> list[Item]:
    """List what is caught of a teacher's layers until it is pooled."""
    items, teacher = [], pair.teacher
    if pair.state_layers:
        numbers = pair.state_layers * pair.teacher_tokens * teacher.width
        items.append(Item(there, "teacher: states of compared layers", numbers * pair.teacher_bytes))
    if "attention" in pair.parts:
        each = FP32 if pair.mean_heads else teacher.heads * pair.teacher_bytes
        layers = len({layer for _, layer in pair.pairs})
        items.append(Item(there, TEACHER_MAPS, layers * pair.teacher_tokens * teacher_max_length(pair.config) * each))
    return items


def _compared(pair: Pair, here: str) -> list[Item]:
    """List what the comparison of layers holds: the teacher's side, pooled, of all; what one pair takes, of one."""
    if not pair.parts:
        return []
    rows, width, states, maps = FP32 * pair.student_tokens, pair.teacher.width, 0, 0
    heads = 1 if pair.mean_heads else pair.student.heads
    items = []
    if pair.state_layers:
        items.append(Item(here, "parts of the loss: the teacher's states, pooled", pair.state_layers * rows * width))
        states = rows * (2 * pair.student.width + STATE_BUFFERS * width)
    if "attention" in pair.parts:
        pooled = len(pair.pairs) * FP32 * pair.map_numbers * heads
        items.append(Item(here, "parts of the loss: the teacher's maps, pooled", pooled))
        maps = FP32 * pair.map_numbers * MAP_BUFFERS * heads
    if "contrastive" in pair.parts:
        numbers = rows * STATE_BUFFERS * width + 3 * FP32 * pair.map_numbers
        items.append(Item(here, "parts of the loss: contrast", numbers))
    return [*items, Item(here, "parts of the loss: one pair of layers", max(states, maps))]


def _layer_gradients(pair: Pair, here: str) -> list[Item]:
    """List the gradients of compared layers, which wait until the backward pass reaches each of them."""
    heads = 1 if pair.mean_heads else pair.student.heads
    states = pair.state_layers * FP32 * pair.student_tokens * pair.student.width
    maps = ("attention" in pair.parts) * len(pair.pairs) * FP32 * pair.map_numbers * heads
    return [Item(here, "parts of the loss: gradients of states and maps", states + maps)]


def _head(here: str, pair: Pair, shapes: Shapes, tokens: int) -> list[Item]:
    """List what the loss engine keeps of a trained head: its gradient in fp32, a 16-bit copy, and the rows' states."""
    weight = shapes.vocab_size * shapes.width
    rows = tokens * shapes.width
    return [
        Item(here, "head: gradient, and its copy in 16 bits", weight * (FP32 + (2 + 6) * pair.half)),
        Item(here, "head: states of the rows and their gradient", rows * (3 * FP32 + 2 * pair.half)),
    ]


def _chunks(here: str, pair: Pair, student_size: int, teacher_size: int) -> list[Item]:
    """List the logits of one chunk of rows as the loss engine makes them (`kdkit.losses.chunked`).

    Args:
        student_size: V of the trained model.
        teacher_size: V of a teacher in memory; 0: there is none.
    """
    config, kind = pair.config, torch.device(here).type
    wide = max(student_size, teacher_size)
    rows = min(rows_per_chunk(wide, torch.device(kind)), pair.student_tokens)
    student, teacher = FP32 * rows * student_size, FP32 * rows * teacher_size
    loss = config.distill.loss
    if teacher_size and not isinstance(loss, Auto) and not compares_events(loss):
        size = float(SPAN_BUFFERS * (student + teacher))
    else:
        events = isinstance(loss, Auto | ProjectedKL | OverlapKL) and not pair.same_tokenizer
        copies = 2 if teacher_size and (events or config.distill.temperature != 1.0) else 0
        # of fp16 the scaled gradient and its 16-bit copy; of the teacher the product before it is widened
        size = student * (1 + copies + 1.5 * pair.half) + teacher * (1 + 0.5 * pair.half)
    block = min(BLOCK_BYTES.get(kind, 2**22), FP32 * rows * wide)
    return [Item(here, f"logits: a chunk of {rows} rows, and a block", size + 2 * block)]


def _cached_bytes(pair: Pair) -> float:
    """Return the bytes of a micro-batch's signals out of a cache, on a CPU of all that are read ahead."""
    cache = pair.config.cache
    kept = {"top_k": cache.top_k, "sampled": cache.num_samples}.get(cache.mode, 1)
    step = pair.step_sequences * pair.config.data.max_length
    if pair.config.train.micro_batch_tokens is not None:  # steps are made whole
        return 2 * FP32 * kept * 2 * step
    ahead = step if pair.device.hardware.device == "cpu" else pair.student_tokens
    return 2 * FP32 * kept * (ahead + pair.student_tokens)
