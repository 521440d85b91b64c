"""Write access to a stored study, for the process that owns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.problem.job import ATTEMPTS
from autotune.study.lease import Lease
from autotune.study.reader import Records
from autotune.study.run_folder import RunFolder
from autotune.study.stages import Recorded, versioned


class Writer(Records):
    """Records of a study that this process owns by a lease, which every write checks."""

    def __init__(
        self, folder: RunFolder, storage: str | None, lease: Lease, *, attempts: int = ATTEMPTS
    ) -> None:
        super().__init__(folder, storage, is_writable=True)
        self.lease, self.attempts = lease, attempts

    def record(self, name: str, record: Recorded) -> None:
        """Write a record, such as that of a stage, as the study attribute `name`."""
        self.write(name, versioned(record.to_json()))

    def write(self, name: str, value: Any) -> None:
        """Write a JSON value as the study attribute `name`."""
        self.lease.check()
        self.study.set_user_attr(name, value)

    def write_all(self, values: Mapping[str, Any]) -> None:
        """Write several JSON values as study attributes, in their order."""
        for name, value in values.items():
            self.write(name, value)
