"""Lets somebody else read what lies in S3, for a while: presigned URLs, and short-lived credentials of STS.

Both can do no more than the gateway's own credentials can. A URL is for one object. Credentials are limited by a
session policy to one prefix; a server that is not AWS's must show first that it heeds such a policy, or they are not
given away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.adapters.object_store.reading import alone
from app.adapters.object_store.s3 import Client, failures, place_of
from app.domain.digests import StoredFile
from app.domain.downloads import LentCredentials, SignedUrls, partition_of, session_name, session_policy
from app.domain.errors import Unavailable, Unsupported

_STATIC = frozenset({"env", "explicit", "shared-credentials-file", "config-file"})
"""How botocore calls where keys of a user come from. Everything else is of a role."""
_NO_ROLE = "arn:aws:iam::000000000000:role/ignored"
"""What botocore wants to be sent, and servers that lend for the caller's own user do not read."""
_LONGEST_SESSION_NAME = 64
_LONGEST_FEDERATED_NAME = 32
_OF_AWS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


class S3Lending:
    """See ``app.ports.ArtifactLending``.

    Args:
        role_arn: the role that is lent; without one, the gateway's own user, where it is one.
        public_endpoint: where callers reach a store that the gateway reaches by another address.
    """

    def __init__(self, *, role_arn: str | None = None, public_endpoint: str | None = None) -> None:
        self._role_arn = role_arn
        self._public_endpoint = public_endpoint
        self._lock = threading.Lock()
        self._made: dict[str | None, Client] = {}
        self._regions: dict[str, str | None] = {}
        self._session: Any = None

    def can_lend(self, uri: str) -> bool:
        return uri.startswith("s3://")

    async def urls(self, uri: str, files: Sequence[StoredFile], *, lasts_s: int) -> SignedUrls:
        return await alone(lambda _: self._urls(uri, files, lasts_s))

    async def credentials(self, uri: str, *, lasts_s: int, principal_id: str) -> LentCredentials:
        return await alone(lambda _: self._credentials(uri, lasts_s, principal_id))

    def _urls(self, uri: str, files: Sequence[StoredFile], lasts_s: int) -> SignedUrls:
        place = place_of(uri)
        with failures(uri):
            client = self._client(self._region_of(place.bucket))
            expires_at = self._signed_until(lasts_s)
            urls = {}
            for file in files:
                wanted = {"Bucket": place.bucket, "Key": place.prefix + file.path}
                if file.is_immutable:
                    wanted["VersionId"] = file.stamp.removeprefix("version:")
                urls[file.path] = client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=lasts_s)
        return SignedUrls(urls, expires_at)

    def _signed_until(self, lasts_s: int) -> datetime:
        """A URL ends with the credentials that signed it."""
        until = datetime.now(UTC) + timedelta(seconds=lasts_s)
        credentials = self._of_gateway().get_credentials()
        if credentials is None:
            raise Unsupported("The gateway has no credentials of the artifact store that it could sign with.")
        credentials.get_frozen_credentials()  # refreshes them if need be
        ends = getattr(credentials, "_expiry_time", None)  # botocore tells it nowhere else
        return min(until, ends) if isinstance(ends, datetime) else until

    def _credentials(self, uri: str, lasts_s: int, principal_id: str) -> LentCredentials:
        place = place_of(uri)
        partition = partition_of(self._role_arn) if self._role_arn else None
        policy = session_policy(place.bucket, place.prefix, partition=partition or "aws")
        with failures(uri):
            region = self._region_of(place.bucket)
            endpoint = self._endpoint(self._client(region, is_ours=True))
        given = self._asked_for(endpoint, policy, lasts_s, principal_id)
        if endpoint is not None:
            self._check_limited(given, place.bucket, region, endpoint)
        return LentCredentials(
            access_key_id=given["AccessKeyId"],
            secret_access_key=given["SecretAccessKey"],
            session_token=given["SessionToken"],
            expires_at=given["Expiration"].astimezone(UTC),
            endpoint_url=(self._public_endpoint or endpoint) if endpoint else None,
            region=region,
        )

    def _asked_for(self, endpoint: str | None, policy: str, lasts_s: int, principal_id: str) -> Any:  # noqa: ANN401  # boto3's
        """What STS gives.

        Raises:
            Unsupported: it does not, or there is nobody to ask for. Unavailable: it does not answer.
        """
        session = self._of_gateway()
        limits = {"Policy": policy, "DurationSeconds": lasts_s}
        name = session_name(principal_id, longest=_LONGEST_SESSION_NAME)
        ask: Callable[[], Any]
        if self._role_arn:
            client = session.client("sts", config=_config())
            ask = lambda: client.assume_role(RoleArn=self._role_arn, RoleSessionName=name, **limits)  # noqa: E731
        elif endpoint:
            client = session.client("sts", endpoint_url=endpoint, config=_config())
            ask = lambda: client.assume_role(RoleArn=_NO_ROLE, RoleSessionName=name, **limits)  # noqa: E731
        elif _is_user(session.get_credentials()):
            client = session.client("sts", config=_config())
            federated = session_name(principal_id, longest=_LONGEST_FEDERATED_NAME)
            ask = lambda: client.get_federation_token(Name=federated, **limits)  # noqa: E731
        else:
            raise Unsupported(
                "This gateway lends no credentials: it runs as a role, and COUNTERSIGN_DOWNLOAD_ROLE_ARN does not say "
                "which role may be lent. Ask for URLs."
            )
        try:
            return ask()["Credentials"]
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "error")
            if int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500 or code == "Throttling":
                raise Unavailable(f"STS answered {code}.") from None
            raise Unsupported(
                f"STS gives this gateway no credentials to lend: it answered {code}. Ask for URLs."
            ) from None
        except BotoCoreError as error:
            raise Unavailable(f"STS does not answer ({type(error).__name__}).") from None
        finally:
            client.close()

    def _check_limited(self, given: Any, bucket: str, region: str | None, endpoint: str) -> None:  # noqa: ANN401  # boto3's
        """Return if the server heeds the policy: they may not list the bucket as a whole.

        Raises:
            Unsupported: it does not; they could read everything that the gateway can.
        """
        borrower = boto3.session.Session(
            given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], region_name=region
        ).client("s3", endpoint_url=endpoint, config=_config())
        try:
            borrower.list_objects_v2(Bucket=bucket, MaxKeys=1)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 403:
                return
            raise Unavailable("The artifact store did not say what lent credentials may do.") from None
        except BotoCoreError as error:
            raise Unavailable(f"The artifact store does not answer ({type(error).__name__}).") from None
        finally:
            borrower.close()
        raise Unsupported(
            "This store gives credentials that are not limited to what was asked for: none are lent. Ask for URLs."
        )

    def _endpoint(self, client: Client) -> str | None:
        """The store's address, if it is not AWS's."""
        url = str(client.meta.endpoint_url)
        return None if (urlsplit(url).hostname or "").endswith(_OF_AWS) else url

    def _region_of(self, bucket: str) -> str | None:
        """Where AWS keeps a bucket: a signature is good in that region alone."""
        client = self._client(None, is_ours=True)
        if bucket not in self._regions:
            region = client.meta.region_name
            if self._endpoint(client) is None:
                region = client.head_bucket(Bucket=bucket).get("BucketRegion") or region
            self._regions[bucket] = region
        return self._regions[bucket]

    def _client(self, region: str | None, *, is_ours: bool = False) -> Client:
        """Args: is_ours: it is for us, not for an address that callers are told."""
        endpoint = None if is_ours else self._public_endpoint
        key = f"{region} {endpoint}"
        session = self._of_gateway()
        with self._lock:
            if key not in self._made:
                self._made[key] = session.client("s3", region_name=region, endpoint_url=endpoint, config=_config())
            return self._made[key]

    def _of_gateway(self) -> Any:  # noqa: ANN401  # boto3's
        with self._lock:
            if self._session is None:
                self._session = boto3.session.Session()
            return self._session


def _is_user(credentials: Any) -> bool:  # noqa: ANN401  # boto3's
    return credentials is not None and credentials.method in _STATIC and not credentials.token


def _config() -> Config:
    # The newer signature: the older one knows no regions and is refused by most.
    return Config(signature_version="s3v4", connect_timeout=5, read_timeout=15, retries={"max_attempts": 2})
