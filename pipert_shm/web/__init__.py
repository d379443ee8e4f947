"""Who may ask a server of ours, and how long does it wait for whom?"""
