"""The sections of a report that tell what a job was: its model, its settings, and how to run it again.

Start at `tell_model`, `tell_settings` and `tell_rerun`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from engine.data.status import FAILED
from engine.view.reporting.blocks import MAX_VALUE, Code, Side, Table, number, shown, told
from engine.view.reporting.command import MAX_PLACES, given_settings, rerun_command, verify_command
from engine.view.reporting.reading import FoundJob
from engine.view.tables import bytes_text

MAX_SCHEMA_ROWS = 200


def tell_model(plan: Mapping[str, Any]) -> tuple[Side, ...]:
    """Tell of the model, as the plan keeps it."""
    card = plan.get("model") or {}
    settings, config = plan.get("settings", {}), plan.get("config", {})
    if not card:
        place, digest = told(str(config.get("model", "–"))), shown(str(settings.get("model_sha256", "–")))
        table = Table("Model", (), (("place", place), ("sha-256", digest)))
        return (Side(tables=(table,)),)
    producer = f"GraphDef version {card['producer']}" if card.get("producer") is not None else "not known"
    by = f", TensorFlow {shown(card['tensorflow'])}" if card.get("tensorflow") else ""
    parameters = "known once it is loaded"
    if card.get("parameters") is not None:
        parameters = f"{card['parameters']:,} ({bytes_text(card.get('parameter_bytes') or 0)})"
    rows = [
        ("place", told(str(card.get("place", "")))),
        ("kind", shown(str(card.get("kind", "")))),
        ("size", "–" if card.get("bytes") is None else bytes_text(card["bytes"])),
        ("sha-256", shown(str(card.get("sha256", "")))),
        ("graph scored with", shown(str(plan.get("scored_sha256", "–")))),
        ("written by", producer + by),
        ("parameters", parameters),
    ]  # fmt: skip
    if card.get("operations") is not None:
        types = ", ".join(f"{shown(name, 40)} x{count:,}" for name, count in card.get("operation_types", ()))
        rows.append(("operations", f"{card['operations']:,}: {types}"))
    findings = card.get("findings")
    unknown = card.get("unknown")
    audit = "computes, and nothing else"
    if findings is None:
        audit = "looked at when it was loaded" if unknown else "looked at when it was frozen on a worker"
    rows.append(("audit", audit if not findings else f"does more: {told('; '.join(findings))}"))
    rows += [("could not be told", told(str(unknown)))] if unknown else []
    rows += [("allowed", shown(", ".join(card["allowed"])))] if card.get("allowed") else []
    rows += [("random", shown("; ".join(card["random_operations"])))] if card.get("random_operations") else []
    rows += [("run once after loading", shown(", ".join(card["init_ops"])))] if card.get("init_ops") else []
    ports = [
        (kind, shown(str(port.get("tensor", "")), 80), shown(str(port.get("dtype") or "when loaded"), 30),
         _shape_text(port.get("shape")), shown(str(port.get("column", "")), 80) or "a constant")
        for kind, name in (("input", "inputs"), ("constant", "constants"), ("output", "outputs"))
        for port in card.get(name, ())
    ]  # fmt: skip
    table = Table("Inputs and outputs", ("", "tensor", "dtype", "shape", "column"), tuple(ports))
    return (Side(tables=(Table("Model", (), tuple(rows)), table)),)


def _shape_text(shape: Sequence[int | None] | None) -> str:
    return "when loaded" if shape is None else "[" + ", ".join("?" if n is None else f"{n}" for n in shape) + "]"


def tell_settings(job: FoundJob) -> tuple[Side, ...]:
    """Tell what the job was told, what that was resolved to, and the versions of what ran it."""
    plan = job.plan
    if not plan:
        return (Side(texts=("The job ended before it had a plan.",)),)
    config, settings = plan.get("config", {}), plan.get("settings", {})
    given = given_settings(config)
    mine = tuple((shown(name), _value_text(value)) for name, value in given.items())
    others = tuple((shown(name), _value_text(value)) for name, value in config.items() if name not in given)
    resolved = (
        ("rows of a batch", number(settings.get("batch_size") or 0)),
        ("bytes of a shard, at most", bytes_text(settings.get("shard_size") or 0)),
        ("input files", number(plan.get("num_inputs") or 0)),
        ("shards", number(plan.get("num_shards") or 0)),
        ("kept columns", shown(", ".join(map(str, settings.get("keep", ()))), MAX_VALUE) or "none"),
    )
    versions = plan.get("versions") or settings.get("versions") or {}
    tables = [
        Table("Given", (), mine),
        Table("At their defaults", (), others, is_folded=True),
        Table("Resolved", (), resolved),
        Table("Versions", (), tuple((shown(str(name)), shown(str(version))) for name, version in versions.items())),
    ]
    if job.schema is not None:
        tables.append(_schema_table(job.schema))
    if len(job.plans) > 1:
        rows = [
            (
                str(index),
                shown(str(each["plan_id"])),
                number(each.get("num_inputs") or 0),
                number(each.get("num_shards") or 0),
            )
            for index, each in enumerate(job.plans)
        ]
        tables.append(Table("Generations", ("generation", "plan", "input files", "shards"), tuple(rows), (0, 2, 3)))
    return (Side(tables=tuple(tables)),)


def _value_text(value: Any) -> str:
    if isinstance(value, list):
        left = len(value) - MAX_PLACES
        return told(", ".join(map(str, value[:MAX_PLACES])) + (f" and {left:,} more" if left > 0 else "")) or "none"
    if isinstance(value, dict):
        return told(", ".join(f"{name}={each}" for name, each in value.items())) or "none"
    if value is None:
        return "–"
    return ("on" if value else "off") if isinstance(value, bool) else told(str(value))


def _schema_table(schema: pa.Schema) -> Table:
    rows = [(shown(field.name, 80), shown(str(field.type), 120)) for field in schema]
    left = len(rows) - MAX_SCHEMA_ROWS
    more = f"and {left:,} more columns" if left > 0 else ""
    return Table("Output columns", ("column", "type"), tuple(rows[:MAX_SCHEMA_ROWS]), is_folded=True, more=more)


def tell_rerun(job: FoundJob) -> tuple[Side, ...]:
    """Tell how to run the job again, and how to check what it wrote."""
    config = job.plan.get("config")
    if not config:
        return (Side(texts=("The job ended before it had a plan.",)),)
    texts = ["The same command goes on where the job was cut off, and does nothing where all is done."]
    if job.status is not None and job.status.state == FAILED and not job.is_finished:
        texts.append("This job failed: what its error says has to be mended first.")
    if len(config.get("input", ())) > MAX_PLACES:
        texts.append(f"It had {len(config['input']):,} inputs, of which the first {MAX_PLACES} are named here; "
                     "_icefloe/plan.json has them all.")  # fmt: skip
    check = verify_command(str(config.get("output", job.place)))
    again = Side(texts=tuple(texts), codes=(Code(rerun_command(config)),))
    verify = Side(texts=("This checks parts against manifest and inputs:",), codes=(Code(check),))
    return again, verify
