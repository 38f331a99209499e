"""Requests to other hosts: pictures by URL, text-to-image, webhooks.

A host must be on a list of the operator. Its name is resolved once, every address is checked, and
the connection goes to a checked address, so that a name that changes its address in between gains
nothing. Replies are bounded in size and time, are never decompressed, and redirects are followed
only for pictures, each as a request of its own. Nothing here is imported by a server that calls no
other host, except the list of hosts, which the settings check.

Does not know: the HTTP API, jobs, settings.
"""
