-- Retires a workflow: new jobs may not name it any more and its schedule ends; its runs go on. Caller: the command line's workflow retire; its
-- run, for what was only tried out: then only what it has loaded itself ($2 when; NULL: whenever).
SELECT stepd.retire_workflow($1, $2) AS "retired!"
