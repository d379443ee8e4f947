"""How does a running pipe become what a file says now? What differs is found, and changed step by step, or put back."""
