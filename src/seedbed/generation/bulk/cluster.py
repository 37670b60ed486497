"""The same rows from many machines: prompts are split into Ray tasks, each of which runs a trio loop of its own.

Ray schedules, moves and retries; nothing here does. It can, since a task is a pure function of its prompts: whoever runs it, and however
often, the rows are the same. The driver holds the output, and adds to it in order; one that was killed is gone on with like any run.
Every node needs seedbed, and must reach the model.
"""

from __future__ import annotations

import math
import os
import socket
from collections import deque
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import trio

from seedbed.errors import MissingExtra, SeedbedError, ServerError, UsageError
from seedbed.generation.bulk.parquet import table_of
from seedbed.generation.bulk.prompts import Prompt
from seedbed.generation.bulk.run import BulkReport, open_job
from seedbed.generation.bulk.stream import Pace, Recipe, open_stream
from seedbed.llm.arguments import check_token_ids, is_iterable, shown
from seedbed.llm.running import require_no_trio
from seedbed.observing.observer import TaskBegan, TaskEnded, observers
from seedbed.sampling.randomness import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from os import PathLike

    from seedbed.generation.bulk.output import Finished
    from seedbed.generation.bulk.prompts import BadLine
    from seedbed.generation.bulk.run import Job
    from seedbed.llm.base import LLM

    OpenModel = Callable[[], AbstractAsyncContextManager[LLM]]

__all__ = ["BatchSampler", "generate_file_on_ray", "require_cluster", "sample_on_ray"]

RETRIES = 5  # how often Ray runs a task again whose worker died
PATIENCE = 5.0  # seconds in which a cluster must take a connection, and answer
SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # the first frame that either side of HTTP/2 sends, here an empty one (RFC 9113, 3.4)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
AHEAD = 2  # tasks given out for each CPU, so that none waits for the driver


def generate_file_on_ray(
    prompts: str | PathLike[str],
    out: str | PathLike[str],
    open_model: OpenModel,
    recipe: Recipe,
    *,
    address: str = "local",
    keep_going: bool = False,
    pace: Pace | None = None,
    task_prompts: int | None = None,
) -> BulkReport:
    """``generate_file`` on a Ray cluster: the same file, the same octets, gone on with in the same way.

    Args:
        prompts, out, keep_going: as for ``generate_file``.
        open_model: what opens the model, here and in each task, such as ``functools.partial(connect, url)``; it is pickled.
        recipe: what decides the rows.
        address: of a cluster, "auto" for the one of this machine, or "local" to start one. Where Ray runs already, that is used.
        pace: of each task.
        task_prompts: prompts a task; None is four times as many as it follows at a time, or less where every CPU is to have some.

    Raises:
        MissingExtra: Ray is not installed.
        WrongRunner: trio runs here already.
        UsageError, RecordingMiss, ServerError: as ``generate_file``; also when Ray gave up on a task.

    Concurrency:
        Blocks; not to be called under trio.

    Example:
        ::

            generate_file_on_ray("prompts.jsonl", "rows.jsonl", partial(connect, "http://model:8000"), Recipe(seed=7), address="auto")
    """
    require_no_trio("generate_file_on_ray")
    require_cluster(address)

    async def opened() -> Job:
        async with open_model() as model:
            return await open_job(prompts, out, model, recipe, keep_going=keep_going)

    with trio.run(opened) as job:
        sample_on_ray(job, open_model, address=address, pace=pace, task_prompts=task_prompts)
        return job.report()


def sample_on_ray(job: Job, open_model: OpenModel, *, address: str, pace: Pace | None = None, task_prompts: int | None = None) -> None:
    """Have what is missing sampled, and write it; see ``generate_file_on_ray``."""
    pace = pace or Pace()
    with _connected(address) as ray:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_sample_part)
        shared = ray.put((open_model, job.recipe, pace))
        at_once = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        enough = min(4 * pace.concurrency // max(1, job.recipe.n), math.ceil(job.left / at_once))
        parts = _parts(job.missing(), task_prompts or max(1, enough))
        given_out = deque(_given_out(task, shared, part) for part in islice(parts, at_once))
        try:
            while given_out:
                sampled: _Sampled = _answer_of(ray, given_out[0])
                for finished in sampled.finished:
                    job.write(finished)
                given_out.popleft()
                _tell_ended()
                if sampled.error is not None:
                    raise sampled.error
                given_out.extend(_given_out(task, shared, part) for part in islice(parts, 1))
        finally:
            for reference in given_out:
                ray.cancel(reference)
                _tell_ended()
    job.complete()


def require_cluster(address: str) -> None:
    """Find out in seconds that no cluster can be had: Ray itself tries for minutes, and says so in many lines.

    Args:
        address: as for ``generate_file_on_ray``.

    Raises:
        MissingExtra: Ray is not installed.
        UsageError: it is no address, nobody listens there, or somebody who is no cluster.
    """
    if _ray().is_initialized() or address == "local":
        return
    place = _found_by_ray() if address == "auto" else address
    scheme, _, where = place.rpartition("://")
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal():
        if scheme:
            return  # a way to connect that Ray has learnt from somebody else
        raise UsageError(f"a Ray cluster is at HOST:PORT, or 'auto' for the one of this machine, or 'local' to start one; not {place!r}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE) as connection:
            is_cluster = _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise UsageError(f"there is no Ray cluster at {place}: {getattr(error, 'strerror', None) or error}") from error
    if not is_cluster:
        raise UsageError(f"there is no Ray cluster at {place}: somebody else listens there")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether it answers the beginning of HTTP/2, as every gRPC server does; one behind TLS is believed."""
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return True
    try:
        connection.sendall(PREFACE)
        answer = connection.recv(len(SETTINGS), socket.MSG_WAITALL)
    except OSError:  # it hangs up, or says nothing
        return False
    return answer[3:4] == SETTINGS[3:4]


def _ray() -> Any:
    """The module.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("sampling on a cluster needs Ray: pip install 'seedbed[ray]'") from error
    return ray


def _found_by_ray() -> str:
    """Where "auto" leads: to RAY_ADDRESS, or to what runs, or was said to run, on this machine."""
    from ray._private.services import canonicalize_bootstrap_address  # not public, and nothing public says it

    try:
        place = canonicalize_bootstrap_address("auto")
    except ConnectionError:
        place = None
    if place is None:
        raise UsageError("there is no Ray cluster on this machine, and RAY_ADDRESS names none: 'local' starts one")
    return str(place)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        more = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=True, **more)
    except Exception as error:  # Ray's own are of many kinds, Exception itself among them
        what = "start a cluster here" if address == "local" else f"connect to {address}"
        raise ServerError(f"Ray cannot {what}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _given_out(task: Any, shared: Any, part: list[Prompt | BadLine]) -> Any:
    for observer in observers():
        observer.notice(TaskBegan(len(part)))
    return task.remote(shared, part)


def _tell_ended() -> None:
    for observer in observers():
        observer.notice(TaskEnded())


def _answer_of(ray: Any, reference: Any) -> _Sampled:
    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except ray.exceptions.RayError as error:
        raise ServerError(f"Ray gave up on a task: {type(error).__name__}: {str(error).strip().splitlines()[-1]}") from error


def _parts(prompts: Iterator[Prompt | BadLine], size: int) -> Iterator[list[Prompt | BadLine]]:
    while part := list(islice(prompts, size)):
        yield part


class _Sampled(NamedTuple):
    """What a task gives back: its prompts in order, up to the one at which an error ended it."""

    finished: list[Finished]
    error: SeedbedError | None


def _sample_part(shared: tuple[OpenModel, Recipe, Pace], prompts: list[Prompt | BadLine]) -> _Sampled:
    """A task."""
    return trio.run(_sample, *shared, prompts)


async def _sample(open_model: OpenModel, recipe: Recipe, pace: Pace, prompts: list[Prompt | BadLine]) -> _Sampled:
    finished: list[Finished] = []
    try:
        async with open_model() as model, open_stream(prompts, model, recipe, pace) as stream:
            async for prompt in stream:
                finished.append(prompt)  # noqa: PERF401  of a comprehension nothing is left when an error ends it
    except SeedbedError as error:
        error.result = None  # it may be large, and its rows are not wanted
        return _Sampled(finished, error)
    return _Sampled(finished, None)


class BatchSampler:
    """For Ray Data: ``dataset.map_batches(BatchSampler, fn_constructor_args=(open_model, recipe), concurrency=2)``.

    A batch needs the columns ``prompt_index`` (ints, which address the randomness: they must not repeat) and ``prompt`` (texts) or
    ``token_ids`` (ints); it may have ``id``. What comes back is a table with a row a sequence, in the columns of
    ``seedbed.generation.bulk.columns``, the same for any split into batches.

    Args:
        open_model: what opens the model, such as ``functools.partial(connect, url)``.
        recipe: what decides the rows; with a seed.
        pace: what decides the speed and nothing else.

    Raises:
        UsageError: a column is missing or no list, or a prompt cannot be continued; it is named. ``InvalidPrompt`` for ids that are none,
            ``InvalidSeed`` for a ``prompt_index`` that is none, ``WrongRunner`` when trio runs here already.
        RecordingMiss: a prompt that the recording does not know.
        MissingExtra: pyarrow, which Ray Data needs, too, is not installed.

    Concurrency:
        One batch at a time, each in a trio loop of its own.

    Example:
        >>> from contextlib import asynccontextmanager
        >>> from seedbed import TinyLM
        >>> @asynccontextmanager
        ... async def open_model():
        ...     yield TinyLM()
        >>> sampler = BatchSampler(open_model, Recipe(seed=7, max_new_tokens=4, text=True))
        >>> sampler({"prompt_index": [0, 1], "prompt": ["The seed", "In spring"]})["text"].to_pylist()
        [', on', ' the']
    """

    def __init__(self, open_model: OpenModel, recipe: Recipe, pace: Pace | None = None) -> None:
        self._open_model, self._recipe, self._pace = open_model, recipe, pace or Pace()

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        require_no_trio("a BatchSampler")
        finished, error = trio.run(_sample, self._open_model, self._recipe, self._pace, _prompts_of(batch))
        if error is not None:
            raise error
        for prompt in finished:
            if prompt.miss is not None:
                raise prompt.miss
            if prompt.problem:
                raise UsageError(f"prompt {prompt.prompt_index} cannot be continued: {prompt.problem}")
        return table_of([orjson.loads(line) for prompt in finished for line in prompt.lines.splitlines()])


def _prompts_of(batch: Mapping[str, Any]) -> list[Prompt | BadLine]:
    if "prompt_index" not in batch or not {"prompt", "token_ids"} & set(batch):
        raise UsageError(f"a batch needs the columns prompt_index, and prompt or token_ids; it has {', '.join(batch) or 'none'}")
    columns = {
        name: _column(batch, name) for name in ("prompt_index", "prompt" if "prompt" in batch else "token_ids", "id") if name in batch
    }
    if len({*map(len, columns.values())}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise UsageError(f"the columns of a batch must be of one length, and have: {lengths}")
    indices, given, *names = columns.values()
    return [_prompt_of(*row) for row in zip(indices, given, *names, strict=True)]


def _column(batch: Mapping[str, Any], name: str) -> list[Any]:
    column = batch[name]
    if isinstance(column, (str, bytes)) or not is_iterable(column):
        raise UsageError(f"the column {name} of a batch must hold a value a prompt, and is {shown(column)}")
    return list(column)


def _prompt_of(index: Any, tokens: object, name: object = None) -> Prompt:
    number = Address(0, prompt_index=index).prompt_index  # checks it
    text_or_ids = tokens if isinstance(tokens, str) else check_token_ids(tokens, f"prompt {number}")
    return Prompt(number, text_or_ids, None if name is None else str(name))
