"""How does the configuration of another system become a pipeline file?"""
