"""The HTTP API: application, middleware, routes, request parsing and responses."""
