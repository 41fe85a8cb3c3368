"""The engine's executor at a site: bytes in, bytes out. Jobs may name this class and no other, and give it nothing.

It must never import torch: its process starts with every job, and stays small.
"""

from __future__ import annotations

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from appliance.catalogue import open_catalogue
from appliance.log import logger, start_logging
from appliance.settings import load
from workers.asking import CONTENT, TAKE, TRAIN
from workers.sidecar.taking_part import Site


class SiteExecutor(Executor):  # type: ignore[misc]
    """Answers the coordinator's tasks as the site's own policy allows."""

    def __init__(self) -> None:
        super().__init__()
        self.site: Site | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Open the catalogue when the job begins, end the trainer with it."""
        if event_type == EventType.START_RUN:
            start_logging("sidecar-job")
            settings = load()
            catalogue = open_catalogue(settings.catalogue_url, settings.data_dir)
            self.site = Site(fl_ctx.get_identity_name(), settings, catalogue)
        elif event_type == EventType.END_RUN and self.site is not None:
            self.site.close()

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:  # noqa: ARG002
        """Return what the site says to one task."""
        content = shareable.get(CONTENT)
        if self.site is None or not isinstance(content, bytes):
            return make_reply(ReturnCode.BAD_TASK_DATA)
        try:
            if task_name == TRAIN:
                return Shareable({CONTENT: self.site.answer(content, lambda: bool(abort_signal.triggered))})
            if task_name == TAKE:
                return Shareable({CONTENT: self.site.take(content)})
        except Exception as error:  # noqa: BLE001 - the edge: nothing of an error's text may leave
            logger().error("task_failed", task=task_name, cause=type(error).__name__)
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)
        return make_reply(ReturnCode.TASK_UNKNOWN)


class OnlyContent(Filter):  # type: ignore[misc]
    """The site's filter over every result of every job: one value of bytes passes, anything beside it is dropped."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:  # noqa: ARG002
        """Drop what is not declared."""
        code = shareable.get_return_code()
        content = shareable.get(CONTENT)
        if code != ReturnCode.OK or not isinstance(content, bytes):
            return make_reply(code if code != ReturnCode.OK else ReturnCode.EXECUTION_RESULT_ERROR)
        kept = Shareable({CONTENT: content})
        kept.set_return_code(code)
        return kept
