-- The first runs of an id range, which is what a prefix of an id means. Caller: the command line. Reads the primary keys of both halves.
SELECT r.id AS "id!", r.workflow AS "workflow!", r.state::text AS "state!", r.created_at AS "created_at!"
FROM stepd.runs r WHERE r.id >= $1 AND r.id <= $2 ORDER BY r.id LIMIT $3
