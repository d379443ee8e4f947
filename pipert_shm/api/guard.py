"""Which pages may change something, among those that `pipert_shm.web.guard` lets pass."""

from __future__ import annotations

from fastapi import HTTPException, Request

from pipert_shm.web.addresses import site_of
from pipert_shm.web.guard import BY_COOKIE, ELSEWHERE


def require_own_site(request: Request) -> None:
    """A dependency of the routes that change something.

    Other sites' pages can make a browser go to an address, which is no harm where that is only looked at. Over plain HTTP to
    another machine browsers don't say who made them ask, so there a cookie is not enough for a GET.

    :raises HTTPException: 403.
    """
    if request.headers.get("origin") is not None:
        return  # the guard let it pass
    referer = request.headers.get("referer")
    foreign = referer is not None and site_of(referer) != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site") in ELSEWHERE:
        raise HTTPException(403, "a page of another site may not do this")
    if request.method == "GET" and request.scope.get(BY_COOKIE):
        raise HTTPException(403, "in a browser this takes a POST; or send the header 'Authorization: Bearer …'")
