"""How do events leave for other systems? Brokers, databases and webhooks, behind a spool that survives a restart."""
