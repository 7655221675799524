"""Serving: from a profile to a server, and the way to one that runs.

profile       one way to serve, from a YAML file; what a command line changes of it
command_line  what a profile becomes: argv, environment, `Launch`
flags         what SGLang will make of a command line, in whatever spelling
keys          where the two keys of a server come from
preflight     what is checked before SGLang is started: `plan` for a dry run, `prepare` for real
refusals      which of its flags are refused, and the way out of each
unused        variables of the caller that do not count, since a profile or an option says otherwise
machine       what has to be installed, and who listens where
gpus          what nvidia-smi says of the GPUs
startup       what a start spends its time on
caches        where what is compiled is kept
adaptive      SGLang's adaptive drafting: what it would need
doctor        all that, and what memory allows, for people
server        the servers that a verb starts, or finds running
connection    address, key, proxy and certificate of a server, and what went wrong on the way
client        questions to a server, and the figures of its answers
conversation  the same on a terminal
"""

__all__ = [
    "caches",
    "client",
    "command_line",
    "connection",
    "conversation",
    "doctor",
    "flags",
    "gpus",
    "keys",
    "machine",
    "preflight",
    "profile",
    "server",
    "startup",
    "unused",
]
