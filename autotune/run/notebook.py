"""A search and a dry run with their figures, tables and reports, as notebooks show them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import RunError
from autotune.run.preview import BarePreview
from autotune.run.reading import reading
from autotune.run.report import answer, dry_run, history, network, profile, write_report
from autotune.run.report import pareto_front as fronts
from autotune.run.report.dataframe import frame_of
from autotune.run.results import BareStudy

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


class Study(BareStudy):
    """A search that ended, runs or was interrupted, with its answer, trials and figures."""

    def report(self, form: str = "html") -> str:
        """Return the report of this search in a form: `html` (one page), `md` or `json`.

        Raises `RunError` if the records of the search are damaged.
        """
        with reading(str(self.folder.path)):
            study = Study(self.folder.path, still=True, storage=self._named_storage)
            return write_report([study], form)

    def plot_front(self) -> go.Figure:
        """Plot value on validation against cost: trials, their front, baselines, the answer."""
        return fronts.draw(self)

    def plot_network(self) -> go.Figure:
        """Plot the answer's plan, or the best plan so far, with one bar per unit in depth order.

        Raises `RunError` if no trial is complete.
        """
        plan = network.best_plan_of(self)
        if plan is None:
            raise RunError(f"A network is drawn with a plan, {self.folder.path} has none yet.")
        return network.draw(self.problem, plan)

    def plot_profile(self) -> go.Figure:
        """Plot the value on validation of each unit tuned alone, with one line per choice."""
        return profile.draw(self.profile, self.settings.metric)

    def plot_history(self) -> go.Figure:
        """Plot the value on validation of every trial, also pruned and failed ones."""
        return history.draw(self)

    def to_frame(self) -> pandas.DataFrame:
        """One row per trial: number, state, value, cost, seconds, hyperparameters, unit choices.

        Raises `DependencyError` if pandas is not installed.
        """
        return frame_of(self)

    def _repr_html_(self) -> str:
        """HTML of the answer and its table, for notebooks."""
        return answer.section(self).to_html()


class Preview(BarePreview):
    """Outcome of a dry run, for which nothing was trained or written."""

    def _repr_html_(self) -> str:
        """HTML of the units and of the estimated time, for notebooks."""
        return "".join(section.to_html() for section in dry_run.sections(self))
