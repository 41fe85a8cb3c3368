"""Server-sent events: one look at the catalogue every two seconds, told to all pages that are open.

What is sent is that something changed, never what: each page asks again for its own parts, by its own session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.concurrency import run_in_threadpool

from appliance.log import logger

LOOK_S = 2.0
BEAT_S = 10.0  # a line that keeps proxies from closing the stream
MOST = 100  # pages that listen


class Live:
    """Everybody who listens, and what was seen last. `look` returns anything that differs once something changed."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self._seen: object = None
        self._number = 0  # of changes
        self._changed = asyncio.Event()
        self.listeners = 0
        self.over = False

    async def watch(self) -> None:
        """Look until told to stop; whoever runs this cancels it at the end."""
        while not self.over:
            try:
                found = await run_in_threadpool(self._look)
            except Exception as error:  # noqa: BLE001 - the catalogue may be away for a while
                logger().warning("look_failed", cause=type(error).__name__)
                found = None
            if found != self._seen:
                self._seen = found
                self._wake()
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """End all streams: a server that waits for them would not end."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        self._number += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def stream(self, may_still: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
        """Yield an event now and whenever something changed, until the session ends or the server does."""
        self.listeners += 1
        told = -1
        try:
            yield "retry: 3000\n\n"
            while not self.over and await may_still():
                if told != self._number:
                    told = self._number
                    yield f"event: changed\ndata: {told}\n\n"
                elif not await self._changes():
                    yield ": still here\n\n"
        finally:
            self.listeners -= 1

    async def _changes(self) -> bool:
        """Wait for a change; False when there is none for a while."""
        try:
            await asyncio.wait_for(self._changed.wait(), BEAT_S)
        except TimeoutError:
            return False
        return True
