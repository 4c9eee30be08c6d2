"""What the judge writes down of one probe, in SMOKE.md and in VERIFY.md."""

from __future__ import annotations

from ml_intern_cli.documents.model import Model, Verdict


class ProbeResult(Model):
    """One probe: what was measured, what is allowed, the verdict, and where and why it failed.

    What the probe means and what usually causes a failure stands once, with the probe: see
    ``ml-intern probes NAME``.
    """

    name: str  # stable: "causality", "initial-loss", …
    measured: str
    threshold: str
    verdict: Verdict
    component: str = ""  # what is to blame, where that can be told: "blocks.1.attention", "train.py:212", …
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether it did not pass."""
        return self.verdict is Verdict.FAIL

    @property
    def finding(self) -> str:
        """What a failure says in one line, without the probe's name."""
        told = self.detail or f"measured {self.measured}, allowed {self.threshold}"
        return f"{self.component}: {told}" if self.component else told
