"""When a torrent has shared enough, and which may run while queues are bounded.  Pure: numbers in, decisions out."""

from __future__ import annotations

import time
from collections.abc import Iterable

from swarm.daemon.entry import Entry
from swarm.daemon.options import Options


def has_shared_enough(entry: Entry, options: Options, now: float) -> bool:
    """Whether a limit of seeding is reached; asked of torrents that seed.  ``now`` is the trio time."""
    wishes = entry.wishes
    idle = {"session": options.seed_idle if options.seed_idle_limited else None, "own": wishes.idle, "none": None}
    longest = idle[wishes.idle_mode]
    return has_given_enough(entry, options) or (longest is not None and now - entry.stirred_at >= longest)


def has_given_enough(entry: Entry, options: Options) -> bool:
    """Whether it has reached the ratio at which it stops."""
    wishes = entry.wishes
    ratio = {"session": options.seed_ratio if options.seed_ratio_limited else None, "own": wishes.ratio, "none": None}
    most = ratio[wishes.ratio_mode]
    return most is not None and (entry.ratio or 0.0) >= most


def allowed(queue: Iterable[Entry], options: Options, now: float) -> set[Entry]:
    """Who may run, of the torrents that want to, given in the order of the queue.

    Downloads and seeds have a queue each.  Who runs and is stalled, or was started past the queue, takes no place.
    """
    may: set[Entry] = set()
    places = {
        False: options.download_queue if options.download_queue_enabled else None,
        True: options.seed_queue if options.seed_queue_enabled else None,
    }
    for entry in queue:
        if not entry.wants_to_run:
            continue
        left = places[entry.done]
        if left is None or entry.past_queue or _is_stalled(entry, options, now):
            may.add(entry)
        elif left > 0:
            may.add(entry)
            places[entry.done] = left - 1
    return may


def alternative_now(options: Options, now: time.struct_time) -> bool:
    """Whether the alternative rates are scheduled at this local time."""
    minute, day = now.tm_hour * 60 + now.tm_min, (now.tm_wday + 1) % 7  # 0 is Sunday
    begin, end = options.alternative_begin, options.alternative_end
    if begin <= end:
        return begin <= minute < end and bool(options.alternative_days >> day & 1)
    if minute < end:  # it began yesterday
        return bool(options.alternative_days >> (day - 1) % 7 & 1)
    return minute >= begin and bool(options.alternative_days >> day & 1)


def _is_stalled(entry: Entry, options: Options, now: float) -> bool:
    return options.stalled_enabled and entry.torrent is not None and now - entry.stirred_at >= options.stalled_after
