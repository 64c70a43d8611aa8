"""A tuning as it might have been, for tests that need one."""

from engine.run.numeric_drift import Drift
from engine.run.tuning.choice import Tuning
from engine.run.tuning.settings import Failure, Layout, Machine, Measurement, RowCosts, Setting

ONE, TWO = Layout(1, 2), Layout(2, 1)
DRIFT = Drift(20_000, 0.0031, 0.0012, 0.08, 0.02, 0.00025)


def measured(
    setting: Setting, batch_rows: int, rate: float, drift: Drift | None = None, session_seconds: float = 1e-6
) -> Measurement:
    drifts = {} if drift is None else {"prediction": drift}
    return Measurement(setting, batch_rows, rate, session_seconds, 700 * 2**20, 2.9, 0.041, drifts)


def tuning(auto_rate: float = 900_000.0, bfloat16_rate: float = 1_500_000.0, xla_rate: float = 1_001_000.0) -> Tuning:
    """The best is 1,000,000 rows/s, by two actors with batches of 512."""
    return Tuning(
        model="/models/net.pb",
        machine=Machine(2),
        sample_rows=200_000,
        sample_files=1,
        auto_rows=256,
        default=TWO,
        measurements=(
            measured(Setting(ONE), 256, 800_000.0),
            measured(Setting(TWO), 256, auto_rate),
            measured(Setting(TWO), 512, 1_000_000.0),
            measured(Setting(TWO, "bfloat16"), 512, bfloat16_rate, DRIFT, 5e-7),
            measured(Setting(TWO, xla=True), 512, xla_rate, Drift(20_000, 0.0, 0.0, 0.0, 0.0, 0.0)),
        ),
        failures=(
            Failure(Setting(TWO, "float16"), None, "no float16 on CPUs", is_left_out=True),
            Failure(Setting(TWO), 1024, "a process was killed"),
        ),
        left_out=("bfloat16 with XLA, batches of 512: no time was left",),
        notes=("a note",),
        costs=RowCosts(2e-7, 3e-7),
        seconds=61.0,
        versions={"tensorflow": "2.21.0"},
    )
