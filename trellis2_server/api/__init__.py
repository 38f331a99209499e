"""Everything HTTP: the application, its middleware, how requests are read and replies written."""
