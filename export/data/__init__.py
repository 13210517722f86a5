"""Click logs: their description, reading, splitting, fitting a schema, and encoding to arrays of ids."""
