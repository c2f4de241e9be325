"""An artifact served over HTTP.

The files that one ``POST /classify`` passes, in order:

1. ``http/protocol.py``        bytes of the socket to an ASGI request (uvicorn's HTTP/1.1)
2. ``http/lifecycle.py``       id, token (``http/auth.py``), route, admission, time limit
3. ``http/routes.py``          what the route does
4. ``http/request.py``         the body, under a limit
5. ``uploads/single.py``       the body to the image's bytes (``uploads/multipart.py`` for unusual forms,
   ``uploads/json_body.py`` for base64)
6. ``inference/scheduler.py``  the bytes to a ranking: threads decode (``dhvt/data/preprocess.py``, ``decode.py``), others call
   the engine (``dhvt/engines/``) with what is decoded and rank its logits (``dhvt/ranking.py``)
7. ``http/response.py``        the ranking to JSON, and to the client; errors are in ``errors.py``
   (``sampling.py`` keeps the image for labelling, where that is asked for)
8. ``http/lifecycle.py``       metrics (``metrics.py``) and log (``http/access_log.py``)

``service.py`` puts them together for BentoML, ``private_apis.py`` has what BentoML and uvicorn do not promise to keep.
"""

from dhvt.telemetry import disable_telemetry

disable_telemetry()
