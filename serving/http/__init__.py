"""HTTP: protocol, authentication, the life of a request, routes, and their documentation."""
