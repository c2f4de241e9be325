"""The parameters of a request."""

import pytest

from serving.errors import BadRequest
from serving.http.request import RequestContext, parse_options


def test_a_long_top_k_is_cut_in_the_message():
    context = RequestContext({"query_string": b"top_k=" + b"x" * 50_000}, None, {}, "id", 0.0)
    with pytest.raises(BadRequest, match="top_k is 'xxx") as caught:
        parse_options(context, {})
    assert len(str(caught.value)) < 200
