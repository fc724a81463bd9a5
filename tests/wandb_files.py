"""Reads what wandb has written offline: `run-ID.wandb`, blocks of a LevelDB log, with protocol buffers of its own."""

import json
import struct
import time

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
HEADER = 7
"""Bytes before the first record, and before each piece of one: checksum, length, and whether it begins or ends one."""
WHOLE, LAST = 1, 4
OWN = ("_step", "_timestamp", "_runtime", "_wandb")
"""Columns that wandb adds."""


def read_records(folder):
    """Return all records of an offline run that has ended, in their order."""
    (file,) = folder.glob("*.wandb")
    deadline = time.monotonic() + 20
    while "exit" not in map(kind_of, records := parse(file.read_bytes())):
        assert time.monotonic() < deadline, f"{file} does not end"
        time.sleep(0.05)  # `finish` returns before the file is whole (findings/wandb_finish_is_early.sh)
    return records


def kind_of(record):
    return record.WhichOneof("record_type")


def parse(content):
    """Return the records of a file's bytes so far."""
    at, piece, records = HEADER, b"", []
    assert content[:4] == b":W&B"
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # no room for a piece: the block is padded
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        piece += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (WHOLE, LAST):
            records.append(Record.FromString(piece))
            piece = b""
    return records


def read_rows(folder):
    """Return the rows of an offline run's history, without the columns that wandb adds."""
    rows = []
    for record in read_records(folder):
        if kind_of(record) == "history":
            values = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
            }
            rows.append({name: value for name, value in values.items() if name not in OWN})
    return rows


def values_of(items):
    """Return values by their names, those of nested ones joined."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(folder):
    """Return what wandb knows of an offline run as a whole."""
    return next(record.run for record in read_records(folder) if kind_of(record) == "run")


def read_config(folder):
    """Return the settings of an offline run."""
    update = read_run(folder).config.update
    return {item.key: json.loads(item.value_json) for item in update if item.key != "_wandb"}


def read_summary(folder):
    """Return the summary of an offline run."""
    values = {}
    for record in read_records(folder):
        if kind_of(record) == "summary":
            values |= values_of(record.summary.update)
    return values
