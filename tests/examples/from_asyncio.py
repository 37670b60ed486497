"""From an asyncio program: two ways in. Run it: ``python tests/examples/from_asyncio.py``

In a thread: one call, nothing to set up. As a guest: trio runs inside the asyncio loop, so both kinds of task share one thread, and
cancelling the asyncio task cancels the sequences. In IPython and Jupyter neither is needed: ``trio.run(main)`` works in a cell as it is,
and after ``%autoawait trio`` so does ``await generate(...)``.
"""

import asyncio

import trio

from seedbed import TinyLM, generate


async def sample():
    """Ordinary seedbed code: it runs under trio."""
    return await generate(list(b"The seed"), TinyLM(), n=4, seed=7, max_new_tokens=40)


async def in_a_thread(main):
    """What ``main`` returns. Cancelled: the sequences run on in their thread, so give them a ``timeout=``."""
    return await asyncio.to_thread(trio.run, main)


async def as_guest(main):
    """What ``main`` returns. Cancelled: ``main`` is cancelled, and has cleaned up before this comes out."""
    loop = asyncio.get_running_loop()
    done, scope = loop.create_future(), trio.CancelScope()

    async def host():
        with scope:
            return await main()

    trio.lowlevel.start_guest_run(
        host,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=done.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    try:
        outcome = await asyncio.shield(done)
    except asyncio.CancelledError:
        scope.cancel()
        (await done).unwrap()
        raise
    return outcome.unwrap()


async def main():
    threaded, guest = await asyncio.gather(in_a_thread(sample), as_guest(sample))
    print(f"the same sequences both ways: {threaded == guest}")


if __name__ == "__main__":
    asyncio.run(main())
