"""Secrets: environment variables by name or, made from a dict, for one sandbox."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from skyrl_magic.loopback.control.calls import Calls, not_found, unary
from skyrl_magic.loopback.control.pages import page
from skyrl_magic.loopback.control.refusals import check_name
from skyrl_magic.loopback.documents import new_id
from skyrl_magic.loopback.objects import Secret

_ANONYMOUS = (api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP, api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL)


def _metadata(secret: Secret) -> api_pb2.SecretMetadata:
    return api_pb2.SecretMetadata(
        name=secret.name,
        creation_info=api_pb2.CreationInfo(created_at=secret.created_at),
        keys=sorted(secret.values),
        environment_name=secret.environment,
        last_used_at=secret.last_used_at,
    )


class SecretCalls(Calls):
    """``Secret*``. No answer carries a value."""

    def _secret(self, secret_id: str) -> Secret:
        secret = self.state.secrets.table.get(secret_id)
        if secret is None:
            raise not_found("Secret", secret_id)
        return secret

    @unary
    async def SecretGetOrCreate(self, request: api_pb2.SecretGetOrCreateRequest) -> api_pb2.SecretGetOrCreateResponse:
        """The secret with a name, made or replaced where the request says so; or a new one without a name."""
        environment = self.environment(request.environment_name)
        kind = request.object_creation_type
        if kind in _ANONYMOUS:
            secret = self._put(environment, "", dict(request.env_dict))
        else:
            found = self.state.secrets.find(environment, request.deployment_name)
            if found is not None and kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
                raise GRPCError(Status.ALREADY_EXISTS, f"Secret '{request.deployment_name}' exists already")
            if found is None and kind == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise not_found("Secret", request.deployment_name)
            if found is None:
                check_name("Secret", request.deployment_name)
                secret = self._put(environment, request.deployment_name, dict(request.env_dict))
            else:
                secret = found
                if kind == api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS:
                    secret.values = dict(request.env_dict)
                    self.state.secrets.table.save()
        missing = [key for key in request.required_keys if key not in secret.values]
        if missing:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Secret '{secret.name}' lacks the key(s) {', '.join(missing)}")
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.object_id, metadata=_metadata(secret))

    def _put(self, environment: str, name: str, values: dict[str, str]) -> Secret:
        secret = Secret(new_id("st"), environment, values, name)
        self.state.secrets.table.put(secret)
        return secret

    @unary
    async def SecretGetInfo(self, request: api_pb2.SecretGetInfoRequest) -> api_pb2.SecretGetInfoResponse:
        """Name and keys of a secret."""
        return api_pb2.SecretGetInfoResponse(metadata=_metadata(self._secret(request.secret_id)))

    @unary
    async def SecretUpdate(self, request: api_pb2.SecretUpdateRequest) -> Empty:
        """Set keys, and remove those that come without a value."""
        secret = self._secret(request.secret_id)
        for update in request.updates:
            if update.HasField("value"):
                secret.values[update.key] = update.value
            else:
                secret.values.pop(update.key, None)
        self.state.secrets.table.save()
        return Empty()

    @unary
    async def SecretDelete(self, request: api_pb2.SecretDeleteRequest) -> Empty:
        """Forget a secret."""
        self.state.secrets.table.remove(self._secret(request.secret_id).object_id)
        return Empty()

    @unary
    async def SecretList(self, request: api_pb2.SecretListRequest) -> api_pb2.SecretListResponse:
        """The named secrets of an environment, newest first."""
        environment = self.environment(request.environment_name)
        named = [s for s in self.state.secrets.table if s.name and s.environment == environment]
        items = [
            api_pb2.SecretListItem(
                label=secret.name,
                created_at=secret.created_at,
                last_used_at=secret.last_used_at,
                environment_name=environment,
                secret_id=secret.object_id,
                metadata=_metadata(secret),
            )
            for secret in page(named, lambda secret: secret.created_at, request.pagination)
        ]
        return api_pb2.SecretListResponse(items=items, environment_name=environment)
