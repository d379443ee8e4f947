"""How does a YAML file become a pipe? It is read, checked by line and field, and its objects are made."""
