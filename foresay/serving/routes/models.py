"""/v1/models, and the admin routes that add and drop checkpoints at run time.

In: names and paths. Out: cards of what is served.
Be careful: the admin routes exist only where FORESAY_ADMIN_KEY is set, and open paths on the server's machine.
"""

from fastapi import APIRouter, Request

from ..checkpoints import Served
from ..errors import ApiError, responses
from ..schemas.models import AddCheckpoint, Dropped, ModelCard, ModelList
from ..service import Service, service_of

router = APIRouter(prefix="/v1", tags=["models"])
admin = APIRouter(prefix="/admin", tags=["admin"])


@router.get("/models")
async def models(request: Request) -> ModelList:
    """Every checkpoint, and the backbone that they share."""
    service = service_of(request)
    cards = [_card(service, served) for served in service.registry.all()]
    return ModelList(object="list", data=[*cards, _backbone_card(service)])


@router.get("/models/{name:path}", responses=responses(404))
async def model(name: str, request: Request) -> ModelCard:
    """One of them."""
    service = service_of(request)
    if name == service.registry.backbone_name:
        return _backbone_card(service)
    return _card(service, service.checkpoint(name)[0])


@admin.post("/checkpoints", status_code=201, responses=responses(409))
async def add(body: AddCheckpoint, request: Request) -> ModelCard:
    """Serves one more checkpoint of the same backbone, once it has given its golden vectors."""
    service = service_of(request)
    spec = f"{body.name}={body.path}" if body.name else body.path

    def load() -> Served:
        served = Served.load(spec, service.backbone)
        service.registry.add(served)
        return served

    served = await service.call(request, service.ticket(), load)
    service.metrics.checkpoints.set(len(service.registry))
    return _card(service, served)


@admin.delete("/checkpoints/{name:path}", responses=responses(404))
async def drop(name: str, request: Request) -> Dropped:
    """No longer serves a checkpoint; what was accepted for it is finished."""
    service = service_of(request)
    if name not in service.registry.names():
        raise ApiError(404, f"{name!r} is not served", "model_not_found")
    service.registry.drop(name)
    service.metrics.checkpoints.set(len(service.registry))
    return Dropped(id=name, object="model", deleted=True)


def _card(service: Service, served: Served) -> ModelCard:
    encoder = served.encoder
    return ModelCard(
        id=served.name,
        object="model",
        created=served.created,
        owned_by="foresay",
        kind="checkpoint",
        backbone=service.registry.backbone_name,
        dim=encoder.dim,
        dims=list(encoder.dims),
        max_tokens=encoder.max_tokens,
        prompts=sorted(encoder.prompts),
        decodes=encoder.decodes,
        documents="teacher" if served.documents is not None else "checkpoint",
        query_weight=encoder.query_weight,
    )


def _backbone_card(service: Service) -> ModelCard:
    name = service.registry.backbone_name
    return ModelCard(
        id=name,
        object="model",
        created=service.registry.created,
        owned_by="foresay",
        kind="backbone",
        backbone=name,
        max_tokens=service.backbone.max_positions,
    )
