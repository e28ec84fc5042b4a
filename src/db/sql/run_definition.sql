-- The definition that a run is pinned to; before its first claim the present one of its workflow. Caller: the HTTP API, the command line's show.
SELECT d.id AS "id!", d.hash AS "hash!", d.workflow AS "workflow!", d.body FROM stepd.runs r
JOIN stepd.definitions d ON d.id = coalesce(r.definition, (SELECT w.definition FROM stepd.workflows w WHERE w.name = r.workflow))
WHERE r.id = $1
