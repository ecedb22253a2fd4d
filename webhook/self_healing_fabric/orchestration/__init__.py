"""The orchestrator: advances what is due by one step, raises levels, compares with the servers."""
