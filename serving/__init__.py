"""Serving: the contract with the SavedModel, the client, the model store, the configuration and the
local server.
"""
