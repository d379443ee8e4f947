"""How do the flows of one file run on several hosts? An agent on each of them runs its part as an ordinary pipe.

From below: `names` (of hosts, and the keys by which they are asked), `placing` (which flow goes where), `splitting` (a file
becomes a part for each host), `code` (whether hosts have the same), `kept` (what an agent was told, on disk), `keeper` (the
process of one pipe), `link` (the connection to the hub), `asking` (questions to agents), `answering` (on which threads),
`agent`, `rollout` (brings a file to all hosts, or to none), `beside` (the process by which `run` does that), and `hub` (the
router). A program's pipe is brought there by `program`, which describes its routines by `describing`. Programs look at pipes
of other hosts by `reaching` (which hub), `counts` (statistics as JSON), `looked_at` (what an agent answers), `remote_tap` and
`remote_pipe` (what a program asks); `reporting` is the process by which HTTP shows them.
"""
