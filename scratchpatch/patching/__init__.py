"""Where patches end and where scratchpads fire: pure functions on masks, without parameters.

    rows         documents packed in the rows of a batch
    scores       what decisions look at
    characters   where UTF-8 characters are complete
    patchifiers  where patches end (commits)
    triggers     where scratchpads fire
    controller   a threshold that follows a target rate
    budget       how many of each a document may have made
    slots        masks to the trunk's queries, in arrays of static size
    layout       all of these in order, for whole rows: `decide`
    step         the same decisions one byte after the other: `step`
"""
