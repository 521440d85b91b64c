"""A search as people look at it: pictures, tables, a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import RunError
from autotune.run.report import answer, history, network, profile, write_report
from autotune.run.report import pareto_front as fronts
from autotune.run.report.dataframe import frame_of
from autotune.run.results import BareStudy

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects as go


class Study(BareStudy):
    """A search that ran, is running, or was interrupted: its answer, trials, pictures."""

    def report(self, form: str = "html") -> str:
        """The report of this search as a text in one form: `html` (one page), `md` or `json`."""
        return write_report([Study(self.folder.path, still=True)], form)

    def plot_front(self) -> go.Figure:
        """Value on validation against cost: trials, their front, references, the answer."""
        return fronts.draw(self)

    def plot_network(self) -> go.Figure:
        """The answer's plan (before the end the best so far), a bar a unit in depth order.

        `RunError` while no trial is complete.
        """
        plan = network.best_plan_of(self)
        if plan is None:
            raise RunError(f"A network is drawn with a plan, {self.folder.path} has none yet.")
        return network.draw(self.problem, plan)

    def plot_profile(self) -> go.Figure:
        """Value on validation of each unit tuned alone, a line a choice; empty without any."""
        return profile.draw(self.profile, self.settings.metric)

    def plot_history(self) -> go.Figure:
        """Value on validation of every trial, pruned and failed ones too, and the best so far."""
        return history.draw(self)

    def to_frame(self) -> pandas.DataFrame:
        """One row a trial: number, state, value, cost, seconds, hyperparameters, unit choices.

        `DependencyError` without pandas.
        """
        return frame_of(self)

    def _repr_html_(self) -> str:
        """The answer and its table, in a notebook."""
        return answer.section(self).to_html()
