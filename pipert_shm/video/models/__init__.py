"""How do neural networks find something in frames? What runs them, and what reads their outputs."""
