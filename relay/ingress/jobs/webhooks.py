"""Having a webhook delivered once more: ``POST /v1/jobs/{id}/webhook/redeliver``."""

from __future__ import annotations

from fastapi import APIRouter, Request

from relay.core.errors import Conflict
from relay.ingress.documentation import KEY, problems
from relay.ingress.jobs.access import JobId, checked, key_of
from relay.ingress.jobs.views import JobView
from relay.ingress.wiring import Ingress


class JobWebhooks:
    """Workers deliver; here it is only asked for."""

    def __init__(self, ingress: Ingress) -> None:
        self._ingress = ingress

    def router(self) -> APIRouter:
        router = APIRouter(tags=["jobs"], dependencies=KEY)
        router.add_api_route(
            "/v1/jobs/{job_id}/webhook/redeliver",
            self.redeliver,
            methods=["POST"],
            status_code=202,
            summary="Deliver a webhook again",
            description="Whether or not it was delivered before, under the same id, and with as many attempts as "
            "the first time.",
            responses=problems(401, 403, 404, 409, 503),
        )
        return router

    async def redeliver(self, request: Request, job_id: JobId) -> JobView:
        ingress = self._ingress
        key = await key_of(ingress, request, "jobs:write")
        status = await ingress.queue.status(checked(ingress, job_id), key.tenant)
        if not status.job.webhook:
            raise Conflict(f"{job_id} has no webhook.")
        if not await ingress.redelivery.ask_for(job_id):
            raise Conflict(f"A webhook is delivered when its job has ended; {job_id} is {status.status}.")
        return JobView.of(await ingress.queue.status(job_id, key.tenant))
