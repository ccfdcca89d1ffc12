"""What pages are told, and when: one look for all of them, nothing twice, and nobody waits for a slow one."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kvm_backup.database.history import Pulse
from kvm_backup.domain.errors import DatabaseError
from kvm_backup.domain.point import Mode
from kvm_backup.domain.run import Run, RunKind, RunState, Trigger
from kvm_backup.web.language import current_language
from kvm_backup.web.live import wire
from kvm_backup.web.live.hub import PER_USER, Connection, Hub, Sources, TooManyConnectionsError
from kvm_backup.web.live.progress import Progress, Rates

NOW = datetime(2026, 11, 22, 2, 0, tzinfo=UTC)
RUN = Run(
    id="r1",
    vm_name="web",
    kind=RunKind.BACKUP,
    trigger=Trigger.WEB,
    host="here",
    repository="default",
    requested_mode=Mode.FULL,
    state=RunState.RUNNING,
    created=NOW,
    started=NOW,
    total=1000,
)
PATIENCE = 20.0


@dataclass
class World:
    """What there is to see. `away` is a database that does not answer."""

    running: tuple[Run, ...] = ()
    mark: tuple[object, ...] = ()
    file: Hashable = 1
    alerts: int = 0
    away: bool = False
    looks: int = 0
    rendered: list[str] = field(default_factory=list)

    def pulse(self) -> Pulse:
        self.looks += 1
        if self.away:
            raise DatabaseError("away", hint="Wait.")
        return Pulse(self.mark, self.running)

    def hub(self) -> Hub:
        return Hub(
            Sources(
                pulse=self.pulse,
                marks={"schedules": lambda: self.file},
                alerts=lambda: self.alerts,
                show_run=self.show_run,
                show_badge=lambda count: f"{current_language()} {count}",
            ),
            every=0.02,
        )

    def show_run(self, run: Run, progress: Progress) -> str:
        self.rendered.append(current_language())
        return f"{current_language()} {progress.done}\nof {progress.total}"


@dataclass
class Page:
    """A connected page: the events that it was sent so far, as (name, data)."""

    connection: Connection
    events: list[tuple[str, str]] = field(default_factory=list)
    last_id: str = ""
    ended: bool = False

    async def until(self, condition: Callable[[list[tuple[str, str]]], bool]) -> list[tuple[str, str]]:
        """Take chunks until that is so; the events since the last call."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self.events) and not self.ended:
                self.take(await self.connection.queue.get())
        taken, self.events = self.events, []
        return taken

    def take(self, chunk: bytes | None) -> None:
        if chunk is None:
            self.ended = True
            return
        for block in chunk.decode().split("\n\n"):
            fields = [line.split(": ", 1) for line in block.splitlines()]
            name = next((value for key, value in fields if key == "event"), None)
            if name is not None:
                self.events.append((name, "\n".join(value for key, value in fields if key == "data")))
                self.last_id = next((value for key, value in fields if key == "id"), self.last_id)


def in_hub(world: World, story: Callable[[Hub], Coroutine[Any, Any, None]]) -> None:
    """Tell a story while the hub looks at the world."""

    async def play() -> None:
        hub = world.hub()
        looking = asyncio.create_task(hub.run())
        await asyncio.sleep(0)
        try:
            await story(hub)
        finally:
            hub.close()
            async with asyncio.timeout(PATIENCE):
                await looking

    asyncio.run(play())


def names(events: list[tuple[str, str]]) -> set[str]:
    return {name for name, _data in events}


def has(name: str) -> Callable[[list[tuple[str, str]]], bool]:
    return lambda events: name in names(events)


def test_nobody_looks_while_no_page_is_open() -> None:
    world = World()

    async def story(hub: Hub) -> None:
        page = Page(hub.connect("anne", "en", hub.version))
        await page.until(has("badge"))
        hub.leave(page.connection)
        await asyncio.sleep(0.3)
        looked = world.looks
        await asyncio.sleep(0.3)
        assert world.looks == looked

    in_hub(world, story)


def test_what_changed_is_told_once_and_the_overview_with_it() -> None:
    world = World()

    async def story(hub: Hub) -> None:
        page = Page(hub.connect("anne", "en", hub.version))
        await page.until(has("overview"))
        world.file = 2
        assert names(await page.until(has("schedules"))) == {"schedules", "overview"}
        world.mark = ("a run was added",)
        assert names(await page.until(has("overview"))) == {"runs", "overview"}
        world.alerts = 3
        assert await page.until(has("badge")) == [("badge", "en 3")]

    in_hub(world, story)


def test_a_change_right_after_another_is_told_too() -> None:
    world = World()

    async def story(hub: Hub) -> None:
        page = Page(hub.connect("anne", "en", hub.version))
        for number in range(2, 12):
            await page.until(has("schedules"))
            world.file = number

    in_hub(world, story)


def test_progress_is_told_as_markup_in_each_language_and_is_no_change_of_the_list() -> None:
    world = World(running=(RUN,))

    async def story(hub: Hub) -> None:
        english = Page(hub.connect("anne", "en", hub.version))
        french = Page(hub.connect("zoé", "fr", hub.version))
        more = [Page(hub.connect(f"user {number}", "fr", hub.version)) for number in range(20)]
        await english.until(has("overview"))
        await french.until(has("overview"))
        before = len(world.rendered)
        world.running = (replace(RUN, done=500),)
        assert await english.until(has("run-r1")) == [("run-r1", "en 500\nof 1000")]
        assert await french.until(has("run-r1")) == [("run-r1", "fr 500\nof 1000")]
        for page in more:
            await page.until(lambda events: ("run-r1", "fr 500\nof 1000") in events)
        looks = len(world.rendered) - before
        assert looks <= 2 * 3  # once for each language and look, however many pages there are

    in_hub(world, story)


def test_a_page_that_connects_again_gets_what_it_missed_and_no_more() -> None:
    world = World()

    async def story(hub: Hub) -> None:
        watching = Page(hub.connect("anne", "en", hub.version))
        gone = Page(hub.connect("anne", "en", hub.version))
        await watching.until(has("overview"))
        await gone.until(has("overview"))
        hub.leave(gone.connection)
        world.file = 2
        await watching.until(has("schedules"))
        back = Page(hub.connect("anne", "en", gone.last_id))
        assert names(await back.until(has("schedules"))) == {"badge", "schedules", "overview"}
        again = Page(hub.connect("anne", "en", back.last_id))
        assert names(await again.until(has("badge"))) == {"badge"}
        for unknown in ("", "other-7", f"{hub.version.split('-')[0]}-x", "٣-٣"):
            stranger = Page(hub.connect("anne", "en", unknown))
            assert "schedules" in names(await stranger.until(has("overview")))

    in_hub(world, story)


def test_many_pages_are_told_in_turns_and_none_is_left_out_however_often_something_changes() -> None:
    world = World(running=(RUN,))

    async def story(hub: Hub) -> None:
        pages = [Page(hub.connect(f"user {number}", ("en", "fr")[number % 2], hub.version)) for number in range(40)]
        for page in pages:
            await page.until(has("overview"))
        looks = world.looks
        for number in range(2, 22, 2):
            world.file = number
            world.running = (replace(RUN, done=number),)
            # Progress waits for nobody's turn.
            await pages[0].until(lambda events, told=number: ("run-r1", f"en {told}\nof 1000") in events)  # type: ignore[misc]
        looks = world.looks - looks
        given = []
        for page in pages[1:]:
            while not page.connection.queue.empty():
                page.take(page.connection.queue.get_nowait())
            given.append(sum(name == "schedules" for name, _data in page.events))
        assert hub.pages == len(pages)
        assert max(given) - min(given) <= 1
        assert sum(given) <= 10 + looks
        world.file = "the last"
        for page in pages:
            page.events.clear()
            await page.until(has("schedules"))

    in_hub(world, story)


def test_a_page_that_connects_again_before_its_turn_misses_nothing() -> None:
    world = World()

    async def story(hub: Hub) -> None:
        others = [Page(hub.connect(f"user {number}", "en", hub.version)) for number in range(60)]
        last = Page(hub.connect("anne", "en", hub.version))
        for page in (*others, last):
            await page.until(has("overview"))
        world.file = 2
        await others[0].until(has("schedules"))
        world.alerts = 7
        await last.until(has("badge"))
        assert "schedules" in last.connection.due
        hub.leave(last.connection)
        back = Page(hub.connect("anne", "en", last.last_id))
        assert "schedules" in names(await back.until(has("badge")))

    in_hub(world, story)


def test_a_page_that_does_not_read_is_dropped_and_the_others_go_on() -> None:
    world = World()

    async def story(hub: Hub) -> None:
        slow = hub.connect("slow", "en", hub.version)
        while slow.put(b""):
            pass
        quick = Page(hub.connect("anne", "en", hub.version))
        await quick.until(has("overview"))
        world.file = 2
        await quick.until(has("schedules"))
        assert hub.pages == 1
        chunks = [slow.queue.get_nowait() for _ in range(slow.queue.qsize())]
        assert chunks[-1] is None

    in_hub(world, story)


def test_a_database_that_is_away_ends_nothing_and_is_looked_at_again() -> None:
    world = World(away=True)

    async def story(hub: Hub) -> None:
        page = Page(hub.connect("anne", "en", hub.version))
        await page.until(has("schedules"))
        world.away, world.mark = False, ("back",)
        assert "runs" in names(await page.until(has("runs")))

    in_hub(world, story)


def test_one_user_cannot_take_every_connection() -> None:
    async def story(hub: Hub) -> None:
        for _ in range(PER_USER):
            hub.connect("anne", "en", "")
        with pytest.raises(TooManyConnectionsError):
            hub.connect("anne", "en", "")
        hub.connect("zoé", "en", "")

    in_hub(World(), story)


def test_closing_ends_every_stream_and_takes_no_more() -> None:
    async def story(hub: Hub) -> None:
        page = Page(hub.connect("anne", "en", ""))
        hub.close()
        await page.until(lambda _events: False)
        assert page.ended
        with pytest.raises(TooManyConnectionsError):
            hub.connect("anne", "en", "")

    in_hub(World(), story)


# As bytes


def test_no_text_ends_an_event_or_begins_another() -> None:
    told = wire.event("runs", "<b>\nevent: forged\r\ndata: x\rid: 9\n\nretry: 0</b>", "a-1").decode()
    assert told.count("\n\n") == 1
    assert told.startswith("id: a-1\nevent: runs\ndata: <b>\n")
    assert all(line.startswith(("id: a-1", "event: runs", "data: ")) for line in told.split("\n") if line)


def test_an_event_without_text_still_reaches_the_page() -> None:
    # A browser passes over an event that has no data line at all.
    assert b"\ndata: \n" in wire.event("runs", "", "a-1")


def test_the_id_of_a_run_cannot_break_the_name_of_its_event() -> None:
    assert wire.run_event("20261122T020000Z-0123456789ab") == "run-20261122T020000Z-0123456789ab"
    assert wire.run_event("a,b\nevent: c d") == "run-a_b_event__c_d"


# Rates


def seen(rates: Rates, *steps: tuple[float, int]) -> Progress:
    for at, done in steps:
        rates.note([replace(RUN, done=done, total=10_000)], at)
    return rates.progress(replace(RUN, done=steps[-1][1], total=10_000), NOW)


def test_a_rate_follows_what_was_seen_lately() -> None:
    steady = seen(Rates(), *((float(second), 100 * second) for second in range(30)))
    assert steady.rate == pytest.approx(100)
    assert steady.seconds_left == pytest.approx((10_000 - 2900) / 100)
    slower = seen(Rates(), (0.0, 0), (1.0, 1000), *((1.0 + second, 1000 + 10 * second) for second in range(1, 60)))
    assert slower.rate is not None
    assert 10 <= slower.rate < 20


def test_a_run_that_begins_again_has_no_rate_of_its_last_attempt() -> None:
    assert seen(Rates(), (0.0, 0), (1.0, 5000), (2.0, 0)).rate is None


def test_where_nobody_looked_the_rate_is_the_mean_since_the_start() -> None:
    run = replace(RUN, done=500)
    assert Rates().progress(run, NOW.replace(second=50)) == Progress(500, 1000, 10.0, 50.0)
    assert Rates().progress(replace(run, state=RunState.SUCCEEDED), NOW).rate is None


def test_runs_that_ended_are_forgotten() -> None:
    rates = Rates()
    seen(rates, (0.0, 0), (1.0, 100))
    rates.note([], 2.0)
    assert rates.progress(replace(RUN, done=0), NOW).rate is None
