"""Every error Facegrid raises on purpose, as one tree.

FacegridError
├── InvalidInput                 the caller's values are at fault; nothing was changed
│   ├── InvalidEmbedding         dimension, dtype, layout, NaN/Inf, zero vector, empty batch
│   ├── InvalidParameter         k, recall, names, limits, options
│   ├── EncryptedGallery         what was asked would write an encrypted gallery's templates in the clear
│   ├── DuplicateTemplate        a template id is there already, or twice in one batch
│   ├── InvalidImage             not an image, truncated, too large, no face, refused by the quality gate
│   └── InvalidFile              a file to import that is not what its format says; UnsafeFile if it names code
├── NotFound                     UnknownGallery, UnknownTemplate, UnknownIdentity, UnknownModel, UnknownSnapshot,
│                                UnknownTenant, UnknownKey, UnknownJob, UndoExpired
├── AlreadyExists                a gallery or a tenant of that name is there; ReviewConflict
├── AccessError                  Unauthenticated, PermissionDenied, QuotaExceeded, RateLimited
├── StorageError                 the disk's fault, or a file that is not what the manifest says
│   ├── HomeLocked               another process has this home or shard open
│   ├── FormatTooNew             written by a newer Facegrid
│   ├── CorruptData              checksum, size or header of a file is wrong
│   ├── KeyUnavailable           the key of encrypted files was not given, or was destroyed
│   ├── WrongKey                 encrypted files, and a key that is not theirs
│   ├── WriteFailed              a write, fsync or commit failed; nothing of it was acknowledged
│   ├── StoreUnavailable         a snapshot store does not answer or refuses
│   ├── StoreBusy                a snapshot is being made or deleted there
│   └── ResultBusy               somebody else reviews or applies the result of a job at this moment
├── ModelError                   ModelMismatch, ModelFileMissing, ModelFileCorrupt, NotEnoughData
├── JobError                     a batch job that did not end well, or is not in the state that was expected
│   ├── JobTaken                 another process runs it
│   ├── JobUnfinished            it has not ended yet
│   ├── JobEnded                 it has ended already
│   ├── JobCancelled             it was cancelled
│   ├── JobFailed                it failed; the message says by what
│   ├── InputExpired             the templates that it read had to be removed by the deadline of erasure
│   └── WorkerLost               the processes that worked at one block, or at the job, died again and again
├── MissingExtra                 an optional dependency is not installed; the message names the extra
└── ClusterError                 HostBusy, DeadlineExceeded, IncompleteCoverage, EnrollIncomplete,
                                 StaleRoute, OutOfStep, NotReplicated, NotEnoughReplicas, ProtocolError,
                                 AuthenticationFailed, InvalidCertificate, ClusterNotReady, ShardClosed,
                                 HostUnavailable, with CertificateRefused, TlsMismatch and WrongHost

Each class has a stable `code` (it travels over the wire and in HTTP problem documents) and says whether the same call
may succeed when repeated (`is_retryable`). A message tells what was expected, what came, and where.
"""

from __future__ import annotations

from typing import ClassVar


class FacegridError(Exception):
    """Base of every error that Facegrid raises on purpose."""

    code: ClassVar[str] = "facegrid_error"
    is_retryable: ClassVar[bool] = False


class InvalidInput(FacegridError, ValueError):
    """The caller's values are at fault; nothing was changed."""

    code = "invalid_input"


class InvalidEmbedding(InvalidInput):
    """An embedding batch of the wrong shape or dtype, or with NaN, Inf or zero vectors."""

    code = "invalid_embedding"


class InvalidParameter(InvalidInput):
    """A parameter outside its stated range."""

    code = "invalid_parameter"


class EncryptedGallery(InvalidInput):
    """What was asked would write an encrypted gallery's templates in the clear."""

    code = "encrypted_gallery"


class DuplicateTemplate(InvalidInput):
    """A template id that is in the gallery already, or twice in one batch."""

    code = "duplicate_template"


class InvalidImage(InvalidInput):
    """Bytes that cannot be used as a face image; `reason` is one of the named reasons of `cluster.faces`."""

    code = "invalid_image"

    def __init__(self, message: str, *, reason: str = "undecodable") -> None:
        super().__init__(message)
        self.reason = reason


class InvalidFile(InvalidInput):
    """A file to import that is not what its format says: cut short, malformed, parts that do not belong together."""

    code = "invalid_file"


class UnsafeFile(InvalidFile):
    """A file to import that asks for code to be run, or has more values than one has; nothing of it was executed."""

    code = "unsafe_file"


class NotFound(FacegridError, LookupError):
    """Something named by the caller is not there."""

    code = "not_found"


class UnknownGallery(NotFound):
    """No gallery of that name."""

    code = "unknown_gallery"


class UnknownTemplate(NotFound):
    """No template of that id."""

    code = "unknown_template"


class UnknownModel(NotFound):
    """No detector, embedder or SearchModel of that name."""

    code = "unknown_model"


class UnknownSnapshot(NotFound):
    """No snapshot of that id in the store."""

    code = "unknown_snapshot"


class UnknownIdentity(NotFound):
    """No template of that identity."""

    code = "unknown_identity"


class UnknownTenant(NotFound):
    """No tenant of that name."""

    code = "unknown_tenant"


class UnknownKey(NotFound):
    """No API key of that id."""

    code = "unknown_key"


class UnknownJob(NotFound):
    """No job of that id."""

    code = "unknown_job"


class UndoExpired(NotFound):
    """What an apply removed can no longer be brought back: its bytes are gone, as deleted ones have to be."""

    code = "undo_expired"


class AlreadyExists(FacegridError):
    """A gallery or a tenant of that name exists."""

    code = "already_exists"


class ReviewConflict(AlreadyExists):
    """Somebody decided about the result since the version of the review that a decision was made on."""

    code = "review_conflict"


class AccessError(FacegridError):
    """Who asks may not have it, or not so much of it; nothing was done."""

    code = "access_error"


class Unauthenticated(AccessError):
    """No API key, or one that is malformed, unknown, revoked or expired."""

    code = "unauthenticated"


class PermissionDenied(AccessError):
    """The key's scopes do not include what was asked."""

    code = "permission_denied"


class QuotaExceeded(AccessError):
    """The tenant has as many galleries, templates or bytes as its quota allows."""

    code = "quota_exceeded"


class RateLimited(AccessError):
    """The tenant asks more often than its quota allows; `retry_after_s` says when there is room again."""

    code = "rate_limited"
    is_retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageError(FacegridError):
    """The disk's fault, or a file that is not what the manifest says."""

    code = "storage_error"


class HomeLocked(StorageError):
    """Another process has this home or shard directory open."""

    code = "home_locked"
    is_retryable = True


class FormatTooNew(StorageError):
    """The directory was written by a newer Facegrid than this one."""

    code = "format_too_new"


class CorruptData(StorageError):
    """A checksum, size or header is not what the manifest says; `path` is the damaged file, where one is known."""

    code = "corrupt_data"

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class KeyUnavailable(StorageError):
    """Files are encrypted and their key was not given, or was destroyed: nothing of them can be read."""

    code = "key_unavailable"


class WrongKey(StorageError):
    """Files were encrypted with another key than the one given, or not at all."""

    code = "wrong_key"


class WriteFailed(StorageError):
    """A write, fsync or commit failed; nothing of it was acknowledged."""

    code = "write_failed"
    is_retryable = True


class StoreUnavailable(StorageError):
    """A snapshot store does not answer or refuses; the message has its reason."""

    code = "store_unavailable"
    is_retryable = True


class StoreBusy(StorageError):
    """Snapshots are being made in a store where one is to be deleted, or the other way round; nothing was done."""

    code = "store_busy"
    is_retryable = True


class ResultBusy(StorageError):
    """Somebody else decides about the result of a job, or applies it, at this moment; nothing was done."""

    code = "result_busy"
    is_retryable = True


class ModelError(FacegridError):
    """A SearchModel or a network file cannot be used."""

    code = "model_error"


class ModelMismatch(ModelError):
    """A model of another dimension, embedder or id than the gallery's."""

    code = "model_mismatch"


class ModelFileMissing(ModelError):
    """A network file is in none of the places looked at."""

    code = "model_file_missing"


class ModelFileCorrupt(ModelError):
    """A network file has another SHA-256 than the registry states, or does not load."""

    code = "model_file_corrupt"


class NotEnoughData(ModelError):
    """Too few templates to train a SearchModel."""

    code = "not_enough_data"


class JobError(FacegridError):
    """A batch job that did not end well, or is not in the state that was expected."""

    code = "job_error"


class JobTaken(JobError):
    """Another process runs the job."""

    code = "job_taken"
    is_retryable = True


class JobUnfinished(JobError):
    """What was asked is of a job that has ended, and this one has not."""

    code = "job_unfinished"
    is_retryable = True


class JobEnded(JobError):
    """What was asked is of a job that has not ended, and this one has."""

    code = "job_ended"


class JobCancelled(JobError):
    """The job was cancelled."""

    code = "job_cancelled"


class JobFailed(JobError):
    """The job failed; the message says by what."""

    code = "job_failed"


class InputExpired(JobError):
    """What a job read was a copy of templates, which had to be removed by the deadline of erasure."""

    code = "input_expired"


class WorkerLost(JobError):
    """The processes that worked at one block of a job, or at the job as a whole, died again and again."""

    code = "worker_lost"


class MissingExtra(FacegridError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""

    code = "missing_extra"


class ClusterError(FacegridError):
    """A host, a connection or a deadline."""

    code = "cluster_error"


class HostUnavailable(ClusterError):
    """A shard host does not answer or refused the connection."""

    code = "host_unavailable"
    is_retryable = True


class CertificateRefused(HostUnavailable):
    """One end of the data plane does not accept the other's certificate: expired, of another authority, or none."""

    code = "certificate_refused"


class TlsMismatch(HostUnavailable):
    """One end of the data plane speaks TLS and the other does not."""

    code = "tls_mismatch"


class WrongHost(HostUnavailable):
    """Another shard host answers at the address that one had."""

    code = "wrong_host"


class HostBusy(ClusterError):
    """A shard host has as many connections or waiting requests as it takes, or a gateway as many images; nothing of
    this request was done."""

    code = "host_busy"
    is_retryable = True


class DeadlineExceeded(ClusterError):
    """The deadline passed before every shard answered."""

    code = "deadline_exceeded"
    is_retryable = True


class IncompleteCoverage(ClusterError):
    """Some shards did not answer and the caller did not allow a partial answer."""

    code = "incomplete_coverage"
    is_retryable = True


class EnrollIncomplete(ClusterError):
    """Some shards of a multi-shard enrollment did not acknowledge; the message names how many templates are durable.

    Repeating the call with the same template ids and `if_exists="skip"` completes it.
    """

    code = "enroll_incomplete"
    is_retryable = True


class StaleRoute(ClusterError):
    """The request was made for another configuration of the shard than the replica has; nothing was done."""

    code = "stale_route"
    is_retryable = True


class OutOfStep(ClusterError):
    """A replica lacks writes that came before the ones it was sent, or has others; it has to catch up."""

    code = "out_of_step"
    is_retryable = True


class NotReplicated(ClusterError):
    """A replica in sync did not confirm a write in time, so it was not acknowledged; the message names the host."""

    code = "not_replicated"
    is_retryable = True


class NotEnoughReplicas(ClusterError):
    """Fewer replicas of a shard are in sync than its gallery's `min_in_sync`; writes are refused, nothing was done."""

    code = "not_enough_replicas"
    is_retryable = True


class ProtocolError(ClusterError):
    """A frame that is malformed, too large or of another protocol version."""

    code = "protocol_error"


class AuthenticationFailed(ClusterError):
    """The peer does not know the cluster's secret."""

    code = "authentication_failed"


class InvalidCertificate(ClusterError):
    """A certificate, key or authority file of this end is missing, unreadable, or does not go with the others."""

    code = "invalid_certificate"


class ClusterNotReady(ClusterError):
    """The Ray cluster lacks the nodes, resources or versions that this home needs."""

    code = "cluster_not_ready"
    is_retryable = True


class ShardClosed(ClusterError):
    """The shard, host or cluster was closed before the call."""

    code = "shard_closed"


def _subclasses(cls: type[FacegridError]) -> list[type[FacegridError]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in _subclasses(child))]


def error_from_code(code: str, message: str) -> FacegridError:
    """The error that a peer raised, rebuilt from its `code` and message; an unknown code gives a FacegridError."""
    for cls in _subclasses(FacegridError):
        if cls.code == code:
            return cls(message)
    return FacegridError(f"{code}: {message}")
