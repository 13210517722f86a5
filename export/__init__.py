"""The offline room: from a click log to a bundle. It knows the models and the contract, never the service."""
