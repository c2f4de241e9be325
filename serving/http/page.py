"""The page at ``/`` and ``/ui``, and Swagger UI at ``/docs``: files without any reference to another host.

Their policy makes browsers refuse other hosts, scripts inside the HTML, and being shown in another page's frame.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from serving.errors import NotFound
from serving.http.response import HTML, Response
from serving.private_apis import swagger_folder

PAGE_ROUTES = frozenset({"/", "/ui", "/ui/{file}", "/docs", "/docs/{file}"})
"""The routes of the pages. They need no token: the files hold no secret, and the page asks for the token itself."""

_STATIC = Path(__file__).parents[1] / "static"
_SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")
_CONTENT_TYPES = {
    ".html": HTML,
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
_HEADERS = {
    "Content-Security-Policy": "; ".join(_POLICY),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@cache
def page_files() -> dict[str, Path]:
    """The file of each path. Those of Swagger UI come with BentoML."""
    files = {f"/{folder}/{path.name}": path for folder in ("ui", "docs") for path in (_STATIC / folder).iterdir()}
    files |= {f"/docs/{name}": swagger_folder() / name for name in _SWAGGER}
    return files | {"/": files["/ui/index.html"], "/ui": files["/ui/index.html"], "/docs": files["/docs/index.html"]}


def match_page(path: str) -> str:
    """Returns the route of a page's file, one of :data:`PAGE_ROUTES`; any other path unchanged."""
    if path in PAGE_ROUTES or path not in page_files():
        return path
    return f"{path[: path.rindex('/')]}/{{file}}"


@cache
def page_response(path: str) -> Response:
    """The file of a path, with the policy.

    Raises:
        NotFound: there is none.
    """
    file = page_files().get(path)
    if file is None or not file.is_file():
        raise NotFound(f"there is no file {path[:200]}; the page is /, and GET /docs.json describes every route")
    return Response(file.read_bytes(), content_type=_CONTENT_TYPES[file.suffix], headers=_HEADERS)
