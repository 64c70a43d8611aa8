"""What an actor has to know of a job. Pure. Start at `scoring_spec`."""

from engine.preparing.prepare import Job, encoding_rules
from engine.run.budget import read_budget
from engine.run.freezing import ScoredModel
from engine.run.spec import RowRules, ScoringSpec
from engine.run.versions import installed_versions

NUM_SAMPLES = 16


def scoring_spec(job: Job, model: ScoredModel) -> ScoringSpec:
    """Return what an actor needs to know of the job."""
    at_hand = [file for file in job.plan.files if file.path not in job.target.gone]
    return ScoringSpec(
        plan_id=job.plan.plan_id,
        generation=job.plan.generation,
        output=job.config.output,
        num_shards=len(job.plan.shards),
        feeds=tuple((tensor, job.inputs.sources[tensor]) for tensor, _ in model.feeds),
        fetches=model.fetches,
        constants=model.constants,
        init_ops=model.init_ops,
        op_libraries=job.config.op_library,
        selection=job.inputs.selection,
        keep=job.inputs.keep,
        rules=RowRules(
            fills=job.inputs.fills,
            utf8=job.config.utf8,
            provenance=job.config.provenance,
            nan_is_bad=job.config.nan_is_bad,
            unbatched=job.config.unbatched,
            budget=read_budget(job.config.max_bad_rows),
        ),
        encoding=encoding_rules(job.config),
        batch_rows=job.plan.batch_rows,
        precision=job.config.precision,
        xla=job.config.xla,
        samples=tuple(job.plan.whole_file(file) for file in at_hand[:NUM_SAMPLES]),
        versions=installed_versions(),
    )
