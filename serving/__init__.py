"""An artifact served over HTTP.

The files that one ``POST /classify`` passes, in order:

1. ``http/protocol.py``        bytes of the socket to an ASGI request (uvicorn's HTTP/1.1)
2. ``http/lifecycle.py``       id, token (``http/auth.py``), route, admission, time limit
3. ``http/routes.py``          what the route does
4. ``uploads/single.py``       the body (``http/request.py``) to the image's bytes (``uploads/multipart.py`` for unusual forms)
5. ``inference/scheduler.py``  bytes to a ranking: decoding threads, then engine threads
6. ``inference/model.py``      the ranking to a response
7. ``http/response.py``        the response to the client; errors are in ``http/errors.py``
8. ``http/lifecycle.py``       ``metrics.py`` and ``access_log.py``

``service.py`` puts them together for BentoML, ``private_apis.py`` has what BentoML and uvicorn do not promise to keep.
"""

from dhvt.telemetry import disable_telemetry

disable_telemetry()
