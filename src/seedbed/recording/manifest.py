"""``manifest.json``: which model was recorded, how much of each row, and, once finished, what the other files must be."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import orjson

from seedbed.errors import RecordingBroken, RecordingNotFound, RecordingTooNew
from seedbed.llm.base import ModelInfo
from seedbed.recording import lines
from seedbed.recording.files import read_file, replace_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MANIFEST", "VERSION", "Acceptance", "Manifest", "Seal", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
FORMAT, VERSION = "seedbed recording", 1


@dataclass(frozen=True, slots=True)
class Seal:
    """What a finished recording consists of.

    Attributes:
        steps: how many prefixes.
        sha256: 64 hex digits for each text file, by name.
        shards: dtype and number of rows of each shard.
    """

    steps: int
    sha256: dict[str, str]
    shards: list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Somebody's decision that answers which failed a check are right, and the earlier ones are not to be held against them any more.

    Attributes:
        who, why: as they said.
        verdict: of the check that was overruled.
        drift: what it measured, in nats; None when nothing could be compared.
        causes: names of what had changed, the strongest first.
        replaced: SHA-256 of the ``steps.jsonl`` that was replaced.
        model: what the model replaced was: its name, server and fingerprint.
    """

    who: str
    why: str
    verdict: str
    drift: float | None
    causes: tuple[str, ...]
    replaced: str
    model: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the manifest says.

    Attributes:
        info: the model.
        top_k: how many tokens of each row are kept; None is the full row.
        seal: None while the recording grows.
        token_texts: how tokens that occur are spelled, where the model told; for people only.
        accepted: every replacement of a baseline by ``seedbed check --accept`` that led to this one, the latest last.
    """

    info: ModelInfo
    top_k: int | None
    seal: Seal | None = None
    token_texts: dict[int, str] = field(default_factory=dict)
    accepted: tuple[Acceptance, ...] = ()

    @property
    def tier(self) -> Literal["full", "top_k"]:
        """How much of each row is kept."""
        return "full" if self.top_k is None else "top_k"


def read_manifest(where: Path) -> Manifest:
    """The manifest of a recording.

    Raises:
        RecordingNotFound: there is none.
        RecordingTooNew: a later version wrote it.
        RecordingBroken: damaged, or it contradicts itself.
    """
    try:
        data = read_file(where / MANIFEST)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordingNotFound(f"no recording at {where}: it has no {MANIFEST}") from error
    _refuse_later_version(data, where)
    try:
        values = lines.parse(data, indent=True)
        if values["format"] != FORMAT or values["version"] != VERSION or type(values["sealed"]) is not bool:
            raise ValueError("format, version or sealed is wrong")
        top_k = values["top_k"]
        if values["tier"] != ("full" if top_k is None else "top_k") or not (top_k is None or (type(top_k) is int and top_k >= 1)):
            raise ValueError("tier or top_k is wrong")
        texts = {int(token_id): str(text) for token_id, text in values["token_texts"].items()}
        accepted = tuple(_acceptance_from(one) for one in values.get("accepted", ()))
        return Manifest(_info_from(values["model"]), top_k, _seal_from(values) if values["sealed"] else None, texts, accepted)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordingBroken(f"{where}: {MANIFEST} is damaged, or not a recording's: {error}") from error


def _refuse_later_version(data: bytes, where: Path) -> None:
    """Before anything else, since a later version may mean everything else differently, its checksum included."""
    try:
        values = orjson.loads(data)
        version = values["version"] if values["format"] == FORMAT else 0
    except (ValueError, TypeError, KeyError):
        return
    if type(version) is not int or version <= VERSION:
        return
    try:
        lines.parse(data, indent=True)
    except ValueError:
        if re.search(rb',\n  "crc32": "[0-9a-f]{8}"\n}\n\Z', data):
            return  # this version's form with another number in it: damaged, not later
    raise RecordingTooNew(f"{where} is version {version} of the format, this seedbed reads up to {VERSION}: update seedbed")


def write_manifest(where: Path, manifest: Manifest) -> None:
    """Put a manifest in the place of the old one, whole.

    Raises:
        OSError: it cannot be written; the old one still stands.
    """
    values: dict[str, Any] = {"format": FORMAT, "version": VERSION, "sealed": manifest.seal is not None}
    values |= {"tier": manifest.tier, "top_k": manifest.top_k}
    values["model"] = {name: value for name, value in asdict(manifest.info).items() if name != "notes"}
    if manifest.seal is not None:
        values |= {"steps": manifest.seal.steps, "sha256": manifest.seal.sha256, "shards": manifest.seal.shards}
    values["token_texts"] = {str(token_id): text for token_id, text in sorted(manifest.token_texts.items())}
    if manifest.accepted:
        values["accepted"] = [asdict(acceptance) for acceptance in manifest.accepted]
    replace_file(where / MANIFEST, lines.checked(values, indent=True))


def _seal_from(values: dict[str, Any]) -> Seal:
    steps, hashes, shards = values["steps"], values["sha256"], values["shards"]
    if type(steps) is not int or not isinstance(hashes, dict) or not isinstance(shards, list):
        raise ValueError("steps, sha256 or shards is wrong")
    return Seal(steps, hashes, shards)


def _acceptance_from(data: dict[str, Any]) -> Acceptance:
    drift, causes = data["drift"], data["causes"]
    if not isinstance(causes, list) or not (drift is None or type(drift) in (int, float)):
        raise ValueError("an acceptance is wrong")
    who, why, verdict = (str(data[name]) for name in ("who", "why", "verdict"))
    return Acceptance(who, why, verdict, drift, tuple(map(str, causes)), str(data["replaced"]), str(data["model"]))


def _info_from(data: dict[str, Any]) -> ModelInfo:
    values = {f.name: data[f.name] for f in fields(ModelInfo) if f.name != "notes"}
    values["eos_token_ids"] = eos = tuple(values["eos_token_ids"])
    vocab_size = values["vocab_size"]
    if type(vocab_size) is not int or vocab_size < 1:
        raise ValueError("vocab_size is wrong")
    if not eos or not all(type(token_id) is int and 0 <= token_id < vocab_size for token_id in eos):
        raise ValueError("eos_token_ids is wrong")
    if values["kind"] not in ("logits", "logprobs"):
        raise ValueError("kind is wrong")
    for name in ("model", "server", "fingerprint", "protocol"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name} is wrong")  # noqa: TRY004 - damage, whatever its kind, is a ValueError here
    for name in ("context_length", "max_top_k"):
        if not (values[name] is None or type(values[name]) is int):
            raise ValueError(f"{name} is wrong")
    return ModelInfo(**values)
