"""How many steps are drafted in the next cycle, by what cycles cost and what is accepted.

SGLang's adaptive drafting has the states, one for each number of steps, and switches between them
at the start of a cycle. Which one is chosen here.

states      the file that says which numbers of steps there are, and what a cycle of each takes
acceptance  what the head accepts, position by position, as far as it was seen lately
policy      the choice
hooks       where it stands in for SGLang's own
deferral    with no steps, the head's cache filled for several cycles at once
head_cache  its keys and values without the rest of it
in_place    with no steps, the states of Gated DeltaNet updated where they are
"""

__all__ = ["deferral", "hooks", "in_place", "policy", "states"]
