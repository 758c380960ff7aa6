"""Which redirects of an MCP server are followed: those that stay where it was configured to be.

Imports the HTTP library: to be imported lazily, and in a thread.
"""

import httpx2


def request_within_origin(response: httpx2.Response) -> httpx2.Request | None:
    """Return what is to be sent next, where a response redirects and that may be followed.

    The headers are for one origin, and the body is a message: both must arrive as they are.
    Redirects that turn a POST into a GET, leave the origin (but for https on the default ports)
    or bring a user and password of their own are not followed.
    """
    following, sent = response.next_request, response.request
    if following is None or following.method != sent.method:
        return None
    userinfo = following.url.userinfo
    if userinfo and userinfo != sent.url.userinfo:
        return None
    return following if _is_within_origin(following.url, sent.url) else None


def _is_within_origin(url: httpx2.URL, origin: httpx2.URL) -> bool:
    """Tell whether one URL is of another's origin; default ports are None to the library."""
    if (url.scheme, url.host, url.port) == (origin.scheme, origin.host, origin.port):
        return True
    is_upgrade = (origin.scheme, url.scheme) == ("http", "https")
    return is_upgrade and url.host == origin.host and url.port is None and origin.port is None
