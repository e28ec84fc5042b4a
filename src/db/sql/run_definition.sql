-- The definition that a run is pinned to; before its first claim the present one of its workflow. Caller: the HTTP API.
SELECT d.id, d.hash, d.workflow, d.body FROM stepd.runs r
JOIN stepd_engine.definitions d ON d.id = coalesce(r.definition, (SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = r.workflow))
WHERE r.id = $1
