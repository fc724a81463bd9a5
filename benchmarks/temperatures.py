"""Answers for four temperatures: a cache for each, every one by a pass of the teacher, against one cache for all.

    python -m benchmarks.temperatures [--config configs/demo.yaml] [--rounds 3] [-p SECTION.KEY=VALUE ...]

The teacher of the configuration and its held-out text. The two ways take turns; processor seconds of the building, in
which the loading of the teacher is not counted, so a cache for each has one load more for every temperature. Bytes of
the files for each position. `loss error` and `gradient error` of a student as it starts, as in
`benchmarks.cache_table`: forward KL from a cache against that from the teacher's whole rows. Beside them what comes of
the coolest cache when it is converted, its rest taken to be spread evenly.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cache_table import build, dense_rows, errors
from benchmarks.measure import versions, write_results
from kdkit.config.language import Config
from kdkit.data.prepare import prepare_data
from kdkit.distill.choose_loss import choose_loss, make_events
from kdkit.distill.student import make_student
from kdkit.losses.sparse import at_temperature
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.online import CachedTeacher, OnlineTeacher
from kdkit.teachers.prepare import prepare_teacher

RESULTS = Path(__file__).parent / "results" / "temperatures.json"
TEMPERATURES = (1.5, 2.0, 3.0, 4.0)


def main() -> None:
    """Build both ways in turn; print and keep what they took and how true they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    opened = open_session(arguments.config, arguments.overrides, "benchmark-temperatures")
    session, config = replace(opened, hardware=find_hardware("cpu")), opened.config
    data = prepare_data(session)
    online = OnlineTeacher(prepare_teacher(session, data).model, data.overlap.teacher_size)
    events = make_events(choose_loss(config, data)[0], data, online.device)
    windows = data.evaluation.first(arguments.windows)
    ways = {"a cache for each": [(t,) for t in TEMPERATURES], "one cache": [TEMPERATURES]}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, list[tuple[CachedSignals, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for way, groups in ways.items():
                places = [Path(folder) / f"{number} {way} {group}" for group in groups]
                for place in places:
                    place.mkdir()
                start = time.process_time()
                made = [
                    build(at(config, group), windows, online, events, place)
                    for group, place in zip(groups, places, strict=True)
                ]
                seconds[way].append(round(time.process_time() - start, 2))
                found[way] = [
                    (with_header(signals, group), size) for (signals, size, _), group in zip(made, groups, strict=True)
                ]
        teacher, student = dense_rows(online, make_student(config, data).eval(), windows, events)
        rows: list[dict[str, Any]] = []
        everything, device = list(range(len(windows))), online.device
        for way, caches in found.items():
            rows.append({"name": way, "cpu seconds": seconds[way], "bytes": round(sum(size for _, size in caches), 1)})
            for temperature in TEMPERATURES:
                signals = next(each for each, _ in caches if temperature in each.temperatures).at(temperature)
                kept = CachedTeacher(temperature).answer(signals.read(everything), device)
                tempered = (teacher / temperature).log_softmax(-1), student / temperature
                rates = errors(*tempered, kept.ids.long(), kept.logprobs, kept.rest, "ghost")
                rows.append({"name": f"{way}, temperature {temperature:g}"} | rates)
        kept = CachedTeacher(TEMPERATURES[0]).answer(found["a cache for each"][0][0].read(everything), device)
        for temperature in TEMPERATURES[1:]:
            converted = at_temperature(kept.logprobs, kept.rest, TEMPERATURES[0] / temperature, events.size)
            tempered = (teacher / temperature).log_softmax(-1), student / temperature
            name = f"that of {TEMPERATURES[0]:g}, converted to {temperature:g}"
            rows.append({"name": name} | errors(*tempered, kept.ids.long(), *converted, "ghost"))
    each, one = (statistics.median(seconds[way]) for way in ways)
    ratios = {"name": "a cache for each / one cache", "seconds": round(each / one, 2), "load": os.getloadavg()[0]}
    write_results(RESULTS, [row | {"versions": versions()} for row in [*rows, ratios]])


def at(config: Config, temperatures: tuple[float, ...]) -> Config:
    """Return the configuration whose answers are kept at some temperatures."""
    cache = config.cache.model_copy(update={"temperatures": list(temperatures[1:])})
    distill = config.distill.model_copy(update={"temperature": temperatures[0]})
    return config.model_copy(update={"cache": cache, "distill": distill})


def with_header(signals: CachedSignals, temperatures: tuple[float, ...]) -> CachedSignals:
    """Say in the header, which `build` leaves empty, what temperatures a cache is of."""
    signals.store.header |= {"temperature": temperatures[0], "temperatures": list(temperatures)}
    return signals


if __name__ == "__main__":
    main()
